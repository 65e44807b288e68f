"""Publish a checkpoint on the Hugging Face Hub, so that two lines load it.

The program is `d2v_train/programs/publish.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.publish", run_name="__main__")
