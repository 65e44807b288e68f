"""Measure what a pretrained encoder knows, without training it: kNN, linear and few-label accuracy of its features.

The program is `d2v_train/programs/probe.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.probe", run_name="__main__")
