"""Fine-tunes data2vec on a task of GLUE, or to classify or score other texts and pairs of texts.

The program is `d2v_train/programs/finetune_glue.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.finetune_glue", run_name="__main__")
