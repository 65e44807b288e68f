"""Fine-tune to classify arrays: `python recipes/finetune_array_classification.py --help`.

The program is `d2v_train/programs/finetune_array_classification.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.finetune_array_classification import main


if __name__ == "__main__":
    sys.exit(main())
