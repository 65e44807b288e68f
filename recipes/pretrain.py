"""Pretrain on text, images, speech, or all of them: `accelerate launch recipes/pretrain.py my_run.yaml`.

The program is `d2v_train/programs/pretrain.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.pretrain import main


if __name__ == "__main__":
    sys.exit(main())
