"""Plot the log of one or several pretraining runs: loss, standard deviations and online probe by modality.

The program is `d2v_train/programs/plot.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.plot", run_name="__main__")
