"""Where a fine-tuning run goes on: checkpoints that are whole, runs that are done, options that must stay.

The same command, given again, goes on where the run was cut off, and trains nothing where it was finished.
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
"""Options with which a run would be another one. A longer run is the same one; its learning rate falls anew."""


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint in a run's folder that was written to its end; torn ones are named and passed over."""
    folders = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(folders, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        # Written last.
        if _read_json(path / STATE_FILE) is not None:
            return str(path)
        logger.warning("%s is not whole and is passed over.", path)
    return None


def resume_point(args: FinetuningArguments) -> str | None:
    """Where training goes on: --resume_from_checkpoint if it names a folder, else the newest whole checkpoint.

    Raises:
        ValueError: if the folder is no checkpoint, or "never" was asked for where there are some.
    """
    wanted = args.resume_from_checkpoint
    if wanted not in AUTO + NEVER:
        if _read_json(Path(wanted) / STATE_FILE) is None:
            raise ValueError(f"--resume_from_checkpoint {wanted} is no whole checkpoint: it has no {STATE_FILE}.")
        return wanted
    found = newest_checkpoint(args.output_dir)
    if found and wanted in NEVER:
        raise ValueError(
            f"{args.output_dir} holds checkpoints, and --resume_from_checkpoint is {wanted}. Choose another "
            "--output_dir, or remove the checkpoints."
        )
    if found:
        logger.info("Going on from %s.", found)
    return found


def is_finished(args: FinetuningArguments) -> bool:
    """Whether the run in the folder has trained for as long as `args` ask for."""
    state = _read_json(Path(args.output_dir) / STATE_FILE)
    if state is None or args.resume_from_checkpoint not in AUTO:
        return False
    if args.max_steps > 0:
        return state["max_steps"] == args.max_steps
    return state["num_train_epochs"] == math.ceil(args.num_train_epochs)


def check_options(args: FinetuningArguments, origin: dict[str, Any], resumes: bool) -> None:
    """Keeps the options of a new run in its folder; of one that goes on, compares them with those that it had.

    Args:
        args: options.
        origin: what the run starts from and learns from, by name.
        resumes: whether the run goes on, or is finished.

    Raises:
        ValueError: if one differs; the state of the run would overrule it in silence.
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
            f"The run in {args.output_dir} was started with other options ({'; '.join(changed)}). Put them back to go "
            "on with it, or choose another --output_dir."
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    """Content of a file; `None` if it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
