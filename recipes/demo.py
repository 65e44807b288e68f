"""Pretrain on the built-in data on a CPU and show what was learned: `python recipes/demo.py`.

The program is `d2v_train/programs/demo.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.demo import main


if __name__ == "__main__":
    sys.exit(main())
