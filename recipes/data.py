"""Say what a source of data is read as: `python recipes/data.py path/to/folder`.

The program is `d2v_train/programs/data.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.data import main


if __name__ == "__main__":
    sys.exit(main())
