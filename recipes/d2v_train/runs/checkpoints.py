"""Checkpoints that survive a kill at any moment.

A checkpoint is written into a temporary folder, flushed to the disk and renamed, so `step_*` folders are complete;
older ones are removed only after that. `support/manifest.py` detects those that were damaged later, which are skipped
in favour of older ones. All tensors are read with safetensors or with `weights_only=True`, so a checkpoint cannot run
code.
"""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from d2v_train.options.sections import CheckpointOptions
from d2v_train.support.atomic import draft_of, flush, put_in_place, remove_folder
from d2v_train.support.manifest import damage_of, write_manifest
from d2v_train.support.processes import ONE_PROCESS, Processes
from d2v_train.support.random_states import random_states
from d2v_train.support.storage import is_write_failure, write_failure


logger = logging.getLogger(__name__)

PREFIX = "step_"
NEEDED = ("model.safetensors", "optimizer.pt", "progress.json")
"""Files of every checkpoint."""


class CheckpointError(RuntimeError):
    """Error for a checkpoint that cannot be written or used; the message has the reason and what to do."""


class CheckpointFolder:
    """The `checkpoints` folder of a run.

    With several processes the main one writes everything but the random states, which each process writes
    itself. They succeed or fail together.

    Args:
        folder: Folder of the `step_*` folders.
        options: Options of the checkpoints to keep.
        processes: Processes of the run.
    """

    def __init__(self, folder: Path, options: CheckpointOptions | None = None, processes: Processes = ONE_PROCESS):
        self.folder, self.options, self.processes = Path(folder), options or CheckpointOptions(), processes
        # Newest step whose weights look sound: its checkpoint, or the one before it, is kept.
        self.sound_step: int | None = None
        # Those whose content was found to be damaged, although their sizes are right.
        self.damaged: dict[Path, str] = {}

    def save(
        self,
        step: int,
        model_state: dict[str, torch.Tensor],
        optimizer_state: dict[str, Any],
        progress: dict[str, Any],
        own_state: Any = None,
        files: dict[str, bytes] | None = None,
    ) -> Path:
        """Write a checkpoint and remove those that are too old.

        Args:
            step: Number of finished optimizer steps.
            model_state: State dict of the model, teacher and EMA step included.
            optimizer_state: State dict of the optimizer (and of a gradient scaler).
            progress: JSON values of the loop, the same in every process.
            own_state: State of this process only, in plain types and tensors.
            files: Contents of further files by name, such as the model's configuration.

        Returns:
            The folder of the checkpoint.

        Raises:
            CheckpointError: The checkpoint could not be written; raised in every process, with earlier ones unchanged.
        """
        final = self.folder / f"{PREFIX}{step:08d}"
        draft = draft_of(final)
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model_state.items()}
        stages = (
            partial(self._begin, draft),
            partial(self._write, draft, tensors, optimizer_state, {"step": step, **progress}, own_state, files or {}),
            partial(self._finish, draft, final, step),
        )
        for stage in stages:
            problem = cause = None
            try:
                stage()
            except Exception as error:  # any: a process that stops alone leaves the others waiting
                cause = error
                needed = size_in_bytes(tensors) + size_in_bytes(optimizer_state)
                problem = write_failure(f"The checkpoint of step {step}", self.folder, error, self._advice(), needed)
            problem = self.processes.first_problem(problem)
            if problem:
                if self.processes.main:
                    shutil.rmtree(draft, ignore_errors=True)
                if cause is not None and not is_write_failure(cause):
                    raise cause
                raise CheckpointError(problem) from cause
        return final

    def _begin(self, draft: Path) -> None:
        """Make the draft and remove what earlier attempts left."""
        if not self.processes.main:
            return
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            flush(self.folder.parent)
        for left_over in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(left_over)
        draft.mkdir()

    def _write(
        self,
        draft: Path,
        tensors: dict[str, torch.Tensor],
        optimizer_state: dict[str, Any],
        progress: dict[str, Any],
        own_state: Any,
        files: dict[str, bytes],
    ) -> None:
        """Write the files of this process."""
        own = draft / f"process_{self.processes.rank}.pt"
        _save({"random": random_states(), "state": own_state}, own)
        flush(own)
        if not self.processes.main:
            return
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        _save(optimizer_state, draft / "optimizer.pt")
        (draft / "progress.json").write_text(json.dumps(progress, indent=1))
        for name, content in files.items():
            (draft / name).write_bytes(content)

    def _finish(self, draft: Path, final: Path, step: int) -> None:
        """Write the manifest, rename the checkpoint, and only then remove older ones."""
        if not self.processes.main:
            return
        write_manifest(draft, step)
        put_in_place(draft, final)
        self.damaged.pop(final, None)
        self.make_room(final)

    def make_room(self, newest: Path) -> None:
        """Remove what is not needed once `newest` is safe: complete ones beyond `keep_last`, torn ones before it."""
        kept = {*self.whole()[-self.options.keep_last :], self.newest_sound()}
        try:
            for path in self._all():
                if path < newest and path not in kept and not self._is_for_ever(path):
                    remove_folder(path)
        except OSError as error:
            logger.warning("An old checkpoint in %s cannot be removed: %s.", self.folder, error)

    def newest_sound(self) -> Path | None:
        """Return the newest complete checkpoint up to `sound_step`; None without one."""
        if self.sound_step is None:
            return None
        return next((path for path in reversed(self.whole()) if step_of(path) <= self.sound_step), None)

    def _is_for_ever(self, checkpoint: Path) -> bool:
        every = self.options.keep_every
        return bool(every) and step_of(checkpoint) % every == 0

    def _advice(self) -> str:
        newest = next(reversed(self.whole()), None)
        before = "There is no earlier one" if newest is None else f"The earlier {newest.name} is complete"
        return f"{before}. Make room or repair the folder, then run the same command again."

    def _all(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.glob(f"{PREFIX}*")) if step_of(path) is not None)

    def whole(self) -> list[Path]:
        """Return complete checkpoints, oldest first, judged by sizes and by what has been read."""
        return [path for path in self._all() if path not in self.damaged and not what_is_missing(path)]

    def torn(self) -> dict[Path, str]:
        """Return unusable checkpoints and the reasons, judged by sizes and by what has been read."""
        reasons = {path: self.damaged.get(path) or what_is_missing(path) for path in self._all()}
        return {path: reason for path, reason in reasons.items() if reason}

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint; its checksums are verified."""
        for path in reversed(self.whole()):
            damage = what_is_missing(path, content=True)
            if not damage:
                return path
            self.damaged[path] = damage
        return None


def read_run_checkpoint(checkpoint: Path, rank: int = 0) -> dict[str, Any]:
    """Read a checkpoint: `model`, `optimizer`, `progress`, and `own` of this process.

    `own` holds `random` and `state`; it is None for a process that the run did not have when it was written. Sizes are
    checked here, checksums by `CheckpointFolder.newest`.

    Raises:
        CheckpointError: The checkpoint is torn.
    """
    missing = what_is_missing(checkpoint)
    if missing:
        raise CheckpointError(
            f"The checkpoint {checkpoint} is not complete: {missing}. Remove it, or use an older one."
        )
    own = checkpoint / f"process_{rank}.pt"
    try:
        return {
            "model": load_file(checkpoint / "model.safetensors"),
            "optimizer": torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu"),
            "progress": json.loads((checkpoint / "progress.json").read_text()),
            "own": torch.load(own, weights_only=True) if own.exists() else None,
        }
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"The checkpoint {checkpoint} cannot be read: {reason} Remove it to continue from an earlier one."
        ) from error


def step_of(checkpoint: Path) -> int | None:
    """Return the step in the name of a checkpoint folder, None for another name."""
    digits = checkpoint.name.removeprefix(PREFIX)
    return int(digits) if checkpoint.name.startswith(PREFIX) and digits.isdecimal() else None


def what_is_missing(checkpoint: Path, content: bool = False) -> str | None:
    """Return why a checkpoint of pretraining cannot be used, None if it is complete; `content` as in `damage_of`."""
    return damage_of(checkpoint, NEEDED, step_of(checkpoint), content)


def size_in_bytes(state: Any) -> int:
    """Return the size of the tensors in a nested state in bytes."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(size_in_bytes, values))


def _save(state: Any, path: Path) -> None:
    """Call `torch.save` with a Python file, whose errors name the reason, such as a full disk."""
    with open(path, "wb") as file:
        torch.save(state, file)
