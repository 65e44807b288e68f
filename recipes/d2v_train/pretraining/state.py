"""Saving the state of a run in checkpoints, and restoring it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from d2v_train.engine.sharding import load_model_state, load_optimizer_state, model_state, optimizer_state
from d2v_train.options.errors import OptionError
from d2v_train.runs.checkpoints import CheckpointError, CheckpointFolder, read_run_checkpoint, size_in_bytes
from d2v_train.support.processes import Processes
from d2v_train.support.random_states import restore_random_states
from d2v_train.support.storage import check_writable, warn_of_little_room


logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """A part of a run with a state in checkpoints, which is the same in every process."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""


class RunState:
    """Weights, optimizer and random states of a run, which its checkpoints store with its progress.

    Every process must call the methods.

    Args:
        folder: Folder of the checkpoints.
        model: The model itself, not the wrapper of the engine.
        optimizer: Optimizer, as returned by the engine.
        scaler: Gradient scaler of fp16; None without.
        processes: Processes of the run.
        files: Further files of every checkpoint, content by name.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        processes: Processes,
        files: Mapping[str, bytes],
    ):
        self.folder, self.model, self.optimizer, self.scaler = folder, model, optimizer, scaler
        self.processes, self.files = processes, dict(files)

    def save(self, step: int, progress: dict[str, Any], own_state: Any) -> Path:
        """Write a checkpoint.

        Args:
            step: Finished steps.
            progress: JSON values, the same in every process.
            own_state: JSON values of this process.

        Returns:
            The folder of the checkpoint.
        """
        main = self.processes.main
        states = {
            "optimizer": optimizer_state(self.optimizer, keep=main),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
        }
        return self.folder.save(
            step,
            model_state(self.model, keep=main),
            states,
            {**progress, "processes": self.processes.count},
            own_state=own_state,
            files={"config.json": self.model.config.to_json_string().encode(), **self.files},
        )

    def load(self, checkpoint: Path, data: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Restore weights, optimizer and random states from a checkpoint.

        Args:
            checkpoint: Folder of the checkpoint.
            data: Current `StepDataset.fingerprint` of the run.

        Returns:
            Progress and own state, as passed to `save`; None as own state if the run had fewer processes.

        Raises:
            CheckpointError: If the checkpoint is incomplete, or of another model.
            OptionError: If the data is not that of the checkpoint.
        """
        content = read_run_checkpoint(checkpoint, self.processes.rank)
        progress, own = content["progress"], content["own"]
        check_same_data(progress["data"], data, checkpoint)
        try:
            load_model_state(self.model, content["model"])
        except RuntimeError as error:
            raise CheckpointError(f"The weights in {checkpoint} are of another model: {error}") from error
        load_optimizer_state(self.optimizer, content["optimizer"]["optimizer"])
        if self.scaler is not None and content["optimizer"]["scaler"] is not None:
            self.scaler.load_state_dict(content["optimizer"]["scaler"])
        if own is not None:
            restore_random_states(own["random"])
        if progress["processes"] != self.processes.count:
            logger.warning(
                "The checkpoint was written by %d processes, this run has %d: samples and masks stay the same, "
                "dropout and noise do not.",
                progress["processes"],
                self.processes.count,
            )
        return progress, None if own is None else own["state"]


def prepare_checkpoints(folder: CheckpointFolder, needed: int) -> Path | None:
    """Check in the main process that checkpoints can be written, and find the newest one.

    Args:
        folder: Folder of the checkpoints.
        needed: Bytes of a checkpoint, see `checkpoint_bytes`.

    Returns:
        The checkpoint to resume from; None if there is none yet.

    Raises:
        CheckpointError: If there are checkpoints, but none is complete.
        WriteError: If the folder cannot be written.
    """
    check_writable(folder.folder)
    newest = folder.newest()
    torn = folder.torn()
    for path, reason in torn.items():
        logger.warning("The checkpoint %s is skipped: %s.", path, reason)
    if torn and newest is None:
        raise CheckpointError(
            f"No checkpoint in {folder.folder} is complete ({'; '.join(torn.values())}), so the run could only start "
            "over, which would remove its log. Restore a complete one; to start over, remove the folder or choose "
            "another output_dir."
        )
    if newest is not None:
        folder.make_room(newest)  # keep_last may have been lowered after a full disk
    warn_of_little_room(folder.folder, needed, folder.options.keep_last + 1)
    return newest


def checkpoint_bytes(model: nn.Module) -> int:
    """Return the approximate bytes of a checkpoint: weights, teacher, and two moments of each trained weight."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return size_in_bytes(list(model.parameters())) + size_in_bytes(list(model.buffers())) + 2 * 4 * trained


def states_by_name(progress: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the state of each part of a run by name.

    Args:
        progress: Progress of a checkpoint; former versions stored the values of all parts at its top level.
    """
    if "state" in progress:
        return progress["state"]
    return {
        "log": {"step": progress["logged"]},
        "meter": {"samples": progress["samples"]},
        "non_finite": {
            "skipped": progress["skipped"],
            "counted": progress["bad_steps"],
            "in_a_row": progress["bad_in_a_row"],
        },
        "bad_samples": progress["draws"],
    }


def check_same_data(saved: dict[str, Any], present: dict[str, Any], checkpoint: Path) -> None:
    """Check that the data gives the sample order of the checkpoint.

    Args:
        saved: `StepDataset.fingerprint` of the checkpoint.
        present: Current fingerprint of the data.
        checkpoint: Folder of the checkpoint, for the message.

    Raises:
        OptionError: If the data of a modality differs.
    """
    for name, before in saved.items():
        now = present.get(name)
        if now is None or now == before:
            continue
        changed = [f"{what} {before.get(what)} -> {value}" for what, value in now.items() if before.get(what) != value]
        raise OptionError(
            f"The {name} data has changed since {checkpoint} was written ({', '.join(changed)}), so the order of the "
            "samples would differ. Restore the data to resume, or choose a new output_dir, with "
            f"init_from={checkpoint} to start from these weights."
        )
