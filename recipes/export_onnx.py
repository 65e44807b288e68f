"""Write a model as an ONNX program: `python recipes/export_onnx.py --model runs/ctc --output model.onnx`.

The program is `d2v_train/programs/export_onnx.py`.
"""

import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.export_onnx import main


if __name__ == "__main__":
    sys.exit(main())
