"""Pretrains data2vec on text, images, speech, or all of them in one run.

The program is `d2v_train/programs/pretrain.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.pretrain", run_name="__main__")
