"""Upload a run or a model to the Hugging Face Hub: `python recipes/publish.py runs/images user/name`.

The program is `d2v_train/programs/publish.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.publish import main


if __name__ == "__main__":
    sys.exit(main())
