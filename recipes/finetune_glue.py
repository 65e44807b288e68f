"""Fine-tune on a task of GLUE, or on other texts: `python recipes/finetune_glue.py --help`.

The program is `d2v_train/programs/finetune_glue.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.finetune_glue import main


if __name__ == "__main__":
    sys.exit(main())
