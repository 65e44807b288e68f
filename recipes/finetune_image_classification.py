"""Fine-tunes data2vec to classify images: a folder with one folder per class, parquet, or a data set on the Hub.

The program is `d2v_train/programs/finetune_image_classification.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.finetune_image_classification", run_name="__main__")
