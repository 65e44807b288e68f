"""Pretrain data2vec on text, images, speech, or all of them in one run.

    d2v pretrain tiny_joint output_dir=runs/tiny_joint
    d2v pretrain tiny_vision data.vision=path/to/images optim.lr=5e-4 max_steps=2000
    d2v pretrain my_run.yaml --dry_run  # size, memory, time and disk of the run, without starting it
    accelerate launch --num_processes 8 -m d2v_train.programs.pretrain my_run.yaml --mixed_precision bf16

The same command again resumes from the newest complete checkpoint. `--help` shows every option, `--help optim` a
section.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from typing import Any

from d2v_train.options.help import help_text


logger = logging.getLogger("pretrain")


def run_program(argv: list[str]) -> dict[str, Any]:
    """Pretrain from the arguments of a command line.

    Args:
        argv: Configuration, then overrides as `key=value` or `--key value`.

    Returns:
        Summary of the run, see `Pretraining.run`.
    """
    if not argv:
        raise SystemExit(__doc__)
    # Imported here so that `--help` need not wait for PyTorch and transformers.
    from d2v_train.options.files import as_overrides, load_options
    from d2v_train.pretraining.session import pretrain

    return pretrain(load_options(argv[0], as_overrides(argv[1:])))


def show_help(argv: list[str]) -> None:
    """Print help and end the program if the arguments contain `--help`.

    Args:
        argv: Arguments of the program; those after `--help` name sections or options.

    Raises:
        SystemExit: If help was requested.
    """
    place = next((place for place, argument in enumerate(argv) if argument in ("-h", "--help")), None)
    if place is None:
        return
    wanted = argv[place + 1 :]
    try:
        text = help_text(wanted)
    except LookupError as error:
        raise SystemExit(str(error)) from error
    # The reader may close the pipe early, as `head` does.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(text if wanted else f"{__doc__}\n{text}")
    raise SystemExit(0)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process.

    Args:
        argv: Arguments; None for the command line.

    Returns:
        Argument of `sys.exit`: 0, the code of an interruption, or an error message.
    """
    argv = sys.argv[1:] if argv is None else argv
    show_help(argv)
    import torch

    from d2v_train.pretraining.session import EXPECTED_ERRORS
    from d2v_train.runs.interruptions import RunInterrupted

    status: int | str = 0
    try:
        run_program(argv)
    except RunInterrupted as interruption:
        logger.info("%s", interruption)
        status = interruption.code
    except EXPECTED_ERRORS as error:
        status = f"{type(error).__name__}: {error}"
    # Free engine and model before the interpreter shuts down: threads of gloo that release tensors later could abort
    # it. And before the group: its last owner joins its threads, which may wait for the interpreter lock. Python's own
    # handle releases that lock first, the model's does not.
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main())
