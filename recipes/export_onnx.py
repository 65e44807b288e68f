"""Write a model as an ONNX program, checked against the model itself.

The program is `d2v_train/programs/export_onnx.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.export_onnx", run_name="__main__")
