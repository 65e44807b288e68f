"""Fine-tune to classify images: `python recipes/finetune_image_classification.py --help`.

The program is `d2v_train/programs/finetune_image_classification.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.finetune_image_classification import main


if __name__ == "__main__":
    sys.exit(main())
