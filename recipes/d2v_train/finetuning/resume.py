"""Resuming of fine-tuning runs: complete checkpoints, finished runs, options that must not change.

The same command resumes an interrupted run and trains nothing in a finished one.
"""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v_train.support.atomic import write_json


if TYPE_CHECKING:
    from d2v_train.finetuning.arguments import FinetuningArguments


logger = logging.getLogger(__name__)

AUTO, NEVER = (None, "auto", "True", "true"), ("never", "False", "false")
OPTIONS_FILE = "options.json"
STATE_FILE = "trainer_state.json"
FIXED_OPTIONS = (
    "learning_rate lr_scheduler_type warmup_steps tri_stage layer_decay freeze_encoder_steps weights_ema_decay optim "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor seed data_seed"
).split()
"""Options that must not change when a run is resumed. It may be made longer, with a new learning rate schedule."""


def newest_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint in the folder of a run; incomplete ones are logged and skipped."""
    folders = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(folders, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        # The state is written last.
        if _read_json(path / STATE_FILE) is not None:
            return str(path)
        logger.warning("%s is not whole and is skipped.", path)
    return None


def resume_point(args: FinetuningArguments) -> str | None:
    """Return the checkpoint to resume from: --resume_from_checkpoint if it is a folder, else the newest complete one.

    Raises:
        ValueError: If the folder is not a complete checkpoint, or "never" is given for a folder with checkpoints.
    """
    wanted = args.resume_from_checkpoint
    if wanted not in AUTO + NEVER:
        if _read_json(Path(wanted) / STATE_FILE) is None:
            raise ValueError(f"--resume_from_checkpoint {wanted} is not a whole checkpoint: it has no {STATE_FILE}.")
        return wanted
    found = newest_checkpoint(args.output_dir)
    if found and wanted in NEVER:
        raise ValueError(
            f"{args.output_dir} contains checkpoints, but --resume_from_checkpoint is {wanted}. Choose another "
            "--output_dir, or remove the checkpoints."
        )
    if found:
        logger.info("Resuming from %s.", found)
    return found


def is_finished(args: FinetuningArguments) -> bool:
    """Return whether the run in the folder has been trained for as long as `args` ask for."""
    state = _read_json(Path(args.output_dir) / STATE_FILE)
    if state is None or args.resume_from_checkpoint not in AUTO:
        return False
    if args.max_steps > 0:
        return state["max_steps"] == args.max_steps
    return state["num_train_epochs"] == math.ceil(args.num_train_epochs)


def check_options(args: FinetuningArguments, origin: dict[str, Any], resumes: bool) -> None:
    """Write the options of a new run into its folder, or compare those of a resumed run with them.

    Args:
        args: Options.
        origin: Initial weights and training data of the run, by name.
        resumes: Whether the run is resumed or finished.

    Raises:
        ValueError: If an option differs; the state of the run would silently override it.
    """
    options: dict[str, Any] = {name: args.to_dict()[name] for name in FIXED_OPTIONS} | origin
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    options["batch size over all processes"] = batch
    path = Path(args.output_dir) / OPTIONS_FILE
    before = _read_json(path) if resumes else None
    if before is None:
        if args.process_index == 0:
            write_json(path, options)
        return
    changed = [
        f"{name}: {before.get(name)} -> {value}" for name, value in options.items() if before.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"The run in {args.output_dir} was started with other options ({'; '.join(changed)}). Restore them to "
            "resume it, or choose another --output_dir."
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; `None` if it is missing or incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
