"""Fine-tunes data2vec for speech recognition with CTC, on LibriSpeech or on recordings of your own.

The program is `d2v_train/programs/finetune_ctc.py`.
"""

import runpy

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path


if __name__ == "__main__":
    runpy.run_module("d2v_train.programs.finetune_ctc", run_name="__main__")
