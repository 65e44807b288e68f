"""Starts configurations of pretraining for a few steps at reduced size, and prints what came of each.

The program is `d2v_train/programs/smoke.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.smoke", run_name="__main__")
