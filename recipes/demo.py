"""Train one small encoder on pictures, speech and text, and show what it learned: minutes on two CPU cores.

The program is `d2v_train/programs/demo.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.demo", run_name="__main__")
