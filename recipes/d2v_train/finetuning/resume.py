"""Resuming of fine-tuning runs: complete checkpoints, finished runs, options that must not change.

The same command resumes an interrupted run and trains nothing in a finished one.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v_train.support.atomic import write_json
from d2v_train.support.manifest import MANIFEST, damage_of


if TYPE_CHECKING:
    from d2v_train.finetuning.arguments import FinetuningArguments


logger = logging.getLogger(__name__)

AUTO, NEVER = (None, "auto", "True", "true"), ("never", "False", "false")
OPTIONS_FILE = "options.json"
STATE_FILE = "trainer_state.json"
CHECKPOINT = "checkpoint"
FINISHED_FILES = ("*.safetensors", "*.safetensors.index.json")
FIXED_OPTIONS = (
    "learning_rate lr_scheduler_type warmup_steps tri_stage layer_decay freeze_encoder_steps weights_ema_decay optim "
    "weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm label_smoothing_factor seed data_seed"
).split()
"""Options that must not change when a run is resumed. It may be made longer, with a new learning rate schedule."""


def newest_checkpoint(folder: str | Path) -> str | None:
    """Return the newest complete checkpoint in the folder of a run; damaged ones are logged and skipped."""
    found = [path for path in Path(folder).glob(f"{CHECKPOINT}-*") if path.name.partition("-")[2].isdecimal()]
    for path in sorted(found, key=_step_of, reverse=True):
        damage = checkpoint_damage(path)
        if damage is None:
            return str(path)
        logger.warning("The checkpoint %s is skipped: %s.", path, damage)
    return None


def checkpoint_damage(path: Path) -> str | None:
    """Return why a checkpoint cannot be used, None if it is complete; checksums are compared."""
    return damage_of(path, [STATE_FILE], _step_of(path), content=True)


def _step_of(checkpoint: Path) -> int | None:
    number = checkpoint.name.removeprefix(f"{CHECKPOINT}-")
    return int(number) if number.isdecimal() else None


def resume_point(args: FinetuningArguments) -> str | None:
    """Return the checkpoint to resume from: --resume_from_checkpoint if it is a folder, else the newest complete one.

    Raises:
        ValueError: If the folder is not a complete checkpoint, or "never" is given for a folder with checkpoints.
    """
    wanted = args.resume_from_checkpoint
    if wanted not in AUTO + NEVER:
        damage = checkpoint_damage(Path(wanted))
        if damage and not (Path(wanted) / MANIFEST).exists() and read_json(Path(wanted) / STATE_FILE) is not None:
            logger.warning("%s was written by a former version, without a manifest: damage would not be seen.", wanted)
            damage = None
        if damage:
            raise ValueError(f"--resume_from_checkpoint {wanted} is not a complete checkpoint: {damage}.")
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
    """Return whether the run in the folder has been trained for as long as `args` ask for.

    A finished model whose weights were damaged later is logged: it is restored from the last checkpoint.
    """
    folder = Path(args.output_dir)
    state = read_json(folder / STATE_FILE)
    if state is None or args.resume_from_checkpoint not in AUTO:
        return False
    if args.max_steps > 0:
        finished = state["max_steps"] == args.max_steps
    else:
        finished = state["num_train_epochs"] == math.ceil(args.num_train_epochs)
    damage = damage_of(folder, content=True) if finished and (folder / MANIFEST).exists() else None
    if damage:
        logger.warning("The finished model in %s is damaged: %s. It is made again.", folder, damage)
    return finished and damage is None


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
    before = read_json(path) if resumes else None
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


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; None if the file is missing, or unreadable, which is logged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s) and is ignored.", path, error)
        return None
    if not isinstance(content, dict):
        logger.warning("%s does not hold a JSON object and is ignored.", path)
        return None
    return content
