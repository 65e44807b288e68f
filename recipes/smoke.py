"""Start configurations of pretraining at reduced size: `python recipes/smoke.py`.

The program is `d2v_train/programs/smoke.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.smoke import main


if __name__ == "__main__":
    sys.exit(main())
