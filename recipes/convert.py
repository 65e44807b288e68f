"""Converts a checkpoint of data2vec from another program into a folder that `AutoModel.from_pretrained` loads.

The program is `d2v_train/programs/convert.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.convert", run_name="__main__")
