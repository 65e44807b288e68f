"""What a checkpoint of a run holds, and how a run is put back to it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from recipes.common.checkpointing import CheckpointError, load_checkpoint, restore_random_states, size_in_bytes
from recipes.common.non_finite import restore_counts
from recipes.common.options import OptionError
from recipes.common.sharding import load_model_state, load_optimizer_state, model_state, optimizer_state
from recipes.common.storage import check_writable, warn_of_little_room


if TYPE_CHECKING:
    from recipes.common.training import Pretraining

logger = logging.getLogger(__name__)


def save_run(run: Pretraining) -> Path:
    """Writes a checkpoint of the run's present step."""
    run.bad_samples.flush(to_disk=True)  # before there is a checkpoint, after which none of them would be met again
    scaler, main = run.accelerator.scaler, run.accelerator.is_main_process
    states = {
        "optimizer": optimizer_state(run.optimizer, keep=main),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    progress = {
        "skipped": run.finite.skipped,
        "bad_in_a_row": run.finite.in_a_row,
        "bad_steps": run.finite.counted,
        "seconds": run.seconds,
        "samples": run.meter.samples,
        "logged": run.logged,
        "draws": run.bad_samples.state(),
        "processes": run.accelerator.num_processes,
        "data": run.steps.fingerprint,
    }
    return run.checkpoints.save(
        run.step,
        model_state(run.inner, keep=main),
        states,
        progress,
        own_state=run.meter.window.state(),
        files={"config.json": run.inner.config.to_json_string().encode(), **run.input_files},
    )


def prepare_checkpoints(run: Pretraining) -> Path | None:
    """Looks at the folder of the checkpoints in the main process: can it be written, and what does it hold?

    Returns:
        The checkpoint to go on from; None where there is none yet.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
        WriteError: nothing can be written there.
    """
    folder = run.checkpoints
    check_writable(folder.folder)
    newest = folder.newest()
    torn = folder.torn()
    for path, reason in torn.items():
        logger.warning("The checkpoint %s is passed over: %s.", path, reason)
    if torn and newest is None:
        raise CheckpointError(
            f"No checkpoint in {folder.folder} is whole ({'; '.join(torn.values())}), so the run could only start "
            "over, which would remove its log. Put a whole one back; to start over, remove the folder or choose "
            "another output_dir."
        )
    if newest is not None:
        folder.make_room(newest)  # of a smaller keep_last, as the advice after a full disk may be
    warn_of_little_room(folder.folder, checkpoint_bytes(run.inner), run.options.keep_last + 1)
    return newest


def checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of a checkpoint, but for small change: weights, teacher, AdamW's two moments of each trained weight."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return size_in_bytes(list(model.parameters())) + size_in_bytes(list(model.buffers())) + 2 * 4 * trained


def resume_run(run: Pretraining, checkpoint: Path) -> None:
    """Puts everything back to what it was when the checkpoint was written.

    Raises:
        CheckpointError: the checkpoint is torn, or of another model.
        OptionError: the data is not that of the checkpoint.
    """
    content = load_checkpoint(checkpoint, run.accelerator.process_index)
    check_same_data(content["progress"].get("data"), run.steps.fingerprint, checkpoint)
    try:
        load_model_state(run.inner, content["model"])
    except RuntimeError as error:
        raise CheckpointError(f"The weights in {checkpoint} are of another model: {error}") from error
    load_optimizer_state(run.optimizer, content["optimizer"]["optimizer"])
    if run.accelerator.scaler is not None and content["optimizer"]["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(content["optimizer"]["scaler"])
    progress = content["progress"]
    run.step, run.seconds, run.meter.samples = progress["step"], progress["seconds"], progress["samples"]
    run.logged = progress.get("logged", 0)
    run.bad_samples.restore(progress.get("draws", {}))
    restore_counts(run.finite, progress)
    if content["own"] is not None:
        run.meter.window.restore(content["own"]["state"])
        restore_random_states(content["own"]["random"])
    if progress["processes"] != run.accelerator.num_processes:
        logger.warning(
            "The checkpoint was written by %d processes, this run has %d: samples and masks go on as planned, dropout "
            "and noise do not.",
            progress["processes"],
            run.accelerator.num_processes,
        )


def check_same_data(saved: dict[str, Any] | None, present: dict[str, Any] | None, checkpoint: Path) -> None:
    """Refuses to go on with data that would not give the sample order of the run.

    Args:
        saved: `StepDataset.fingerprint` of the checkpoint; None in those written before it was kept.
        present: that of the data now.
        checkpoint: for the message.

    Raises:
        OptionError: names the modality and what differs.
    """
    for name, before in (saved or {}).items():
        now = (present or {}).get(name)
        if now is None or now == before:
            continue
        changed = [f"{what} {before.get(what)} -> {value}" for what, value in now.items() if before.get(what) != value]
        raise OptionError(
            f"The {name} data is not what it was when {checkpoint} was written ({', '.join(changed)}), so the samples "
            "of the run would not come in their order. Put the data back to resume, or choose a new output_dir, with "
            f"init_from={checkpoint} to start from these weights."
        )
