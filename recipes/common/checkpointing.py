"""Checkpoints that survive a kill at any moment.

A checkpoint is written into a temporary folder, flushed to the disk and renamed, so `step_*` folders appear whole.
A manifest of file sizes is written last: a folder without it, or with a file of another size (a copy that broke off, a
full disk), is torn and passed over in favour of the one before. All tensors are read with safetensors or with
`weights_only=True`, so a checkpoint cannot run code.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


MANIFEST = "manifest.json"
_PREFIX = "step_"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


def random_states() -> dict[str, Any]:
    """States of all random generators of this process, as tensors, numbers and lists only."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts the generators back to what `random_states` returned."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


class CheckpointFolder:
    """The `checkpoints` folder of a run.

    With several processes the main one writes everything but the random states, which each process writes
    itself; `barrier` keeps them together.

    Args:
        folder: where the `step_*` folders are.
        keep_last: number of checkpoints that are kept.
        rank: this process.
        barrier: returns when all processes have called it.
    """

    def __init__(self, folder: Path, keep_last: int = 2, rank: int = 0, barrier=lambda: None):
        self.folder, self.keep_last, self.rank, self.barrier = Path(folder), keep_last, rank, barrier

    def save(
        self,
        step: int,
        model_state: dict[str, torch.Tensor],
        optimizer_state: dict[str, Any],
        progress: dict[str, Any],
        own_state: Any = None,
        texts: dict[str, str] | None = None,
    ) -> Path:
        """Writes a checkpoint and removes those that are too old.

        Args:
            step: finished optimizer steps.
            model_state: state dict of the model, teacher and EMA step included.
            optimizer_state: state dict of the optimizer (and of a gradient scaler).
            progress: JSON values of the loop, the same in every process.
            own_state: what this process alone keeps, in plain types and tensors.
            texts: further files by name, such as the model's configuration.

        Returns:
            The folder of the checkpoint.
        """
        final, draft = self.folder / f"{_PREFIX}{step:08d}", self.folder / f".draft_{step:08d}"
        if self.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob(".draft_*"):
                shutil.rmtree(left_over)
            draft.mkdir()
        self.barrier()
        own = draft / f"process_{self.rank}.pt"
        torch.save({"random": random_states(), "state": own_state}, own)
        _flush(own)
        if self.rank == 0:
            tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model_state.items()}
            save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
            torch.save(optimizer_state, draft / "optimizer.pt")
            (draft / "progress.json").write_text(json.dumps({"step": step, **progress}, indent=1))
            for name, text in (texts or {}).items():
                (draft / name).write_text(text, encoding="utf-8")
        self.barrier()
        if self.rank == 0:
            sizes = {path.name: path.stat().st_size for path in sorted(draft.iterdir())}
            (draft / MANIFEST).write_text(json.dumps(sizes, indent=1))
            for path in (*draft.iterdir(), draft):
                _flush(path)
            if final.exists():
                shutil.rmtree(final)  # a torn one of the same step
            os.rename(draft, final)
            _flush(self.folder)
            for old in self.whole()[: -self.keep_last]:
                shutil.rmtree(old)
        self.barrier()
        return final

    def whole(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return [path for path in sorted(self.folder.glob(f"{_PREFIX}*")) if not what_is_missing(path)]

    def torn(self) -> dict[Path, str]:
        """Incomplete checkpoints and what each one lacks."""
        reasons = {path: what_is_missing(path) for path in sorted(self.folder.glob(f"{_PREFIX}*"))}
        return {path: reason for path, reason in reasons.items() if reason}

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return next(reversed(self.whole()), None)


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used, or None when it is whole."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return f"it has no readable {MANIFEST}"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def load_checkpoint(checkpoint: Path, rank: int = 0) -> dict[str, Any]:
    """Content of a checkpoint: `model`, `optimizer`, `progress`, and `own` of this process.

    `own` holds `random` and `state`; it is None for a process that the run did not have when it was written.

    Raises:
        CheckpointError: the checkpoint is torn.
    """
    missing = what_is_missing(checkpoint)
    if missing:
        raise CheckpointError(f"The checkpoint {checkpoint} is not whole: {missing}. Remove it, or use an older one.")
    own = checkpoint / f"process_{rank}.pt"
    return {
        "model": load_file(checkpoint / "model.safetensors"),
        "optimizer": torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu"),
        "progress": json.loads((checkpoint / "progress.json").read_text()),
        "own": torch.load(own, weights_only=True) if own.exists() else None,
    }


def _flush(path: Path) -> None:
    """Has the disk hold what was written to a file or folder, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
