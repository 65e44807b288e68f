"""Convert a checkpoint into a folder that `AutoModel` loads: `python recipes/convert.py SOURCE OUT`.

The program is `d2v_train/programs/convert.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.convert import main


if __name__ == "__main__":
    sys.exit(main())
