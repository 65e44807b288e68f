"""Pretrains data2vec on text, images, speech, or all of them in one run.

    python recipes/pretrain.py tiny_joint output_dir=runs/tiny_joint
    python recipes/pretrain.py tiny_vision data.vision=path/to/images optim.lr=5e-4 max_steps=2000
    python recipes/pretrain.py my_run.yaml --dry_run  # size, memory, time and disk of the run, without starting it
    accelerate launch --num_processes 8 recipes/pretrain.py my_run.yaml --mixed_precision bf16

The same command again goes on from the newest whole checkpoint. `--help` shows every option, `--help optim` a section.
"""

from __future__ import annotations

import gc
import logging
import sys
from typing import Any

from d2v_train.options.help import help_text


logger = logging.getLogger("pretrain")


def main(arguments: list[str]) -> dict[str, Any]:
    """Runs the program.

    Args:
        arguments: configuration, then overrides as `key=value` or `--key value`.

    Returns:
        Summary of the run, see `Pretraining.run`.
    """
    if not arguments:
        raise SystemExit(__doc__)
    # Here, not above: they bring PyTorch and transformers, for which nobody who asks for help should wait.
    from d2v_train.options.files import as_overrides, load_options
    from d2v_train.pretraining.session import pretrain

    return pretrain(load_options(arguments[0], as_overrides(arguments[1:])))


def show_help(arguments: list[str]) -> None:
    """Print the help that the arguments ask for, if they do, and end the program.

    Args:
        arguments: of the program; those behind `--help` name sections or options.

    Raises:
        SystemExit: help was asked for.
    """
    place = next((place for place, argument in enumerate(arguments) if argument in ("-h", "--help")), None)
    if place is None:
        return
    wanted = arguments[place + 1 :]
    try:
        text = help_text(wanted)
    except LookupError as error:
        raise SystemExit(str(error)) from error
    print(text if wanted else f"{__doc__}\n{text}")
    raise SystemExit(0)


def run_program(arguments: list[str]) -> int | str:
    """Runs the program as a process.

    Returns:
        What the process ends with: 0, the code of an interruption, or what was wrong, in a sentence.
    """
    show_help(arguments)
    from d2v_train.pretraining.session import REASONS
    from d2v_train.runs.interruptions import RunInterrupted

    status: int | str = 0
    try:
        main(arguments)
    except RunInterrupted as interruption:
        logger.info("%s", interruption)
        status = interruption.code
    except REASONS as error:
        status = f"{type(error).__name__}: {error}"
    # Engine and model go while the interpreter is whole: threads of gloo that let go of tensors later could abort it.
    gc.collect()
    return status


if __name__ == "__main__":
    sys.exit(run_program(sys.argv[1:]))
