"""Plot the logs of pretraining runs: `python recipes/plot.py runs/a runs/b --output curves.png`.

The program is `d2v_train/programs/plot.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.plot import main


if __name__ == "__main__":
    sys.exit(main())
