"""Fine-tune for speech recognition with CTC: `python recipes/finetune_ctc.py --help`.

The program is `d2v_train/programs/finetune_ctc.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.finetune_ctc import main


if __name__ == "__main__":
    sys.exit(main())
