"""Ask what the latents of modalities share: `python recipes/align.py concepts --models "joint=runs/joint/final"`.

The program is `d2v_train/programs/align.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.align import main


if __name__ == "__main__":
    sys.exit(main())
