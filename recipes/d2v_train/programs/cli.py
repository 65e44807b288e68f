"""The command `d2v`, with the programs of the package as sub-commands, such as `d2v pretrain tiny_joint`.

A program is imported when it is run, so that the list of commands needs no library.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.util import find_spec


# Name -> the file in programs/, and what the program does.
COMMANDS = {
    "data": ("data", "say what a source of data is read as, and which files are left out and why"),
    "pretrain": ("pretrain", "pretrain on text, images, speech, or all of them in one run"),
    "probe": ("probe", "measure the accuracy of simple classifiers on a frozen encoder"),
    "align": ("align", "ask what the latents of several modalities share, with nulls and controls"),
    "finetune-glue": ("finetune_glue", "fine-tune on a task of GLUE, or to classify or score other texts"),
    "finetune-images": ("finetune_image_classification", "fine-tune to classify images"),
    "finetune-ctc": ("finetune_ctc", "fine-tune for speech recognition with CTC"),
    "finetune-audio": ("finetune_audio_classification", "fine-tune to classify recordings"),
    "finetune-arrays": ("finetune_array_classification", "fine-tune to classify arrays, such as series of sensors"),
    "convert": ("convert", "convert checkpoints of fairseq, BEiT and transformers, and back to transformers"),
    "publish": ("publish", "upload a run or a model to the Hugging Face Hub"),
    "export-onnx": ("export_onnx", "write a model as an ONNX program, checked against the model"),
    "plot": ("plot", "plot the logs of pretraining runs"),
    "smoke": ("smoke", "start every configuration of pretraining for a few steps at reduced size"),
    "demo": ("demo", "pretrain on the built-in data on a CPU, and measure what was learned"),
}


def usage() -> str:
    """Return the list of all commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: d2v COMMAND [ARGUMENT ...]",
            "",
            *lines,
            "",
            "`d2v COMMAND --help` explains one of them. On several devices, pretraining is started with",
            "`accelerate launch -m d2v_train.programs.pretrain my_run.yaml`, and fine-tuning in the same way.",
        ]
    )


def main(argv: list[str] | None = None) -> int | str | None:
    """Run one of the programs.

    Args:
        argv: Name of the command and its arguments; None for the command line.

    Returns:
        Argument of `sys.exit`: a status or an error message.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.0)[0]
        print(f"d2v: There is no command {name!r}. The nearest one is {nearest!r}; `d2v` lists all.", file=sys.stderr)
        return 2
    try:
        # A program may import its libraries when it starts, so that its help does not need them.
        return importlib.import_module(f"d2v_train.programs.{COMMANDS[name][0]}").main(rest)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not library or find_spec(library) is not None:
            raise  # the library is installed, but lacks the module: a bug
        return f'd2v {name}: {library} is not installed. Install it with: pip install "modeling-d2v[train]"'


if __name__ == "__main__":
    sys.exit(main())
