"""Measure what a pretrained encoder knows: `python recipes/probe.py runs/demo/final --modality vision`.

The program is `d2v_train/programs/probe.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.probe import main


if __name__ == "__main__":
    sys.exit(main())
