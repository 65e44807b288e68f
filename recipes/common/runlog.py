"""What a run reports: running sums that stay on the device, one JSONL line an interval, a progress bar, trackers."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.common.atomic import write_text
from recipes.common.storage import writing
from recipes.common.text import duration


logger = logging.getLogger(__name__)


class MetricsWindow:
    """Sums of a log interval, by modality and name, without a host synchronisation until they are read.

    A loss is summed over the micro-batches and processes of a step (the model divides it by the global count of
    masked tokens) and averaged over the steps; every other value is averaged over all forward passes.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.clear()

    def clear(self) -> None:
        """Starts the next interval."""
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, name: str, value: Tensor | float, count: Tensor | float = 1) -> None:
        """Adds a value to a sum; `count` is its weight in the mean, 0 for all but the first part of a sum."""
        value = torch.as_tensor(value, dtype=self.dtype, device=self.device).detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] += count

    def add_if_known(self, name: str, value: Tensor) -> None:
        """Adds a value that is NaN where nothing could be measured; such a value does not count in the mean."""
        known = value.isfinite()
        self.add(name, value.nan_to_num(0.0, 0.0, 0.0), known.to(self.dtype))

    def means(self, reduce=None) -> dict[str, float]:
        """Means over the interval; what was counted nowhere is left out.

        Args:
            reduce: sums a tensor over all processes; every process must hold the same names.
        """
        if not self.sums:
            return {}
        names = sorted(self.sums)
        sums = torch.stack([self.sums[name] for name in names])
        counts = torch.stack(
            [torch.as_tensor(self.counts[name], dtype=self.dtype, device=self.device) for name in names]
        )
        if reduce is not None:
            sums, counts = reduce(torch.stack([sums, counts])).unbind()
        means, counts = torch.stack([sums / counts, counts]).tolist()
        return {name: mean for name, mean, count in zip(names, means, counts, strict=True) if count}

    def state_dict(self) -> dict[str, Any]:
        """Return JSON values: this process's part of an interval that a checkpoint cuts in two."""
        return {
            "sums": {name: value.item() for name, value in self.sums.items()},
            "counts": {name: float(count) for name, count in self.counts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the interval of a state."""
        self.clear()
        for name, value in state["sums"].items():
            self.add(name, value, state["counts"][name])


class RunLog:
    """`log.jsonl`, one object a line, in the order of the steps and without repetition across resumes.

    Args:
        path: the file; None writes nothing (processes other than the main one).

    Attributes:
        last: the newest line; empty where there is none.

    Raises:
        WriteError: the file cannot be written, in `open`, `write` and `flush`.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.last: dict[str, Any] = {}
        self._known_step = 0

    def open(self, step: int) -> None:
        """Go on with the file of a run that stands at a step; lines of later steps, left by a kill, are removed."""
        if self.path is None:
            return
        if self.path.exists():
            kept = [line for line in read_log(self.path) if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept), "The log")
            self.last = kept[-1] if kept else {}
        last_step = self.last.get("step", 0)
        if self._known_step > last_step:
            logger.warning("%s ends at step %s, the checkpoint knew of step %d: lines are lost.",
                           self.path, last_step, self._known_step)  # fmt: skip

    def state_dict(self) -> dict[str, int]:
        """Return the step of the newest line, by which `open` finds out that lines are lost."""
        return {"step": self.last.get("step", 0)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the state of a checkpoint, before `open`."""
        self._known_step = state["step"]

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line and hands it to the operating system."""
        self.last = record
        if self.path is not None:
            with writing("The log", self.path.parent), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Has the disk hold all lines, before a checkpoint tells a later run that they are there."""
        if self.path is not None and self.path.exists():
            with writing("The log", self.path.parent), open(self.path, "rb") as file:
                os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; those that are broken, such as a last one that was cut short by a kill, are left out."""
    records = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def one_line(record: dict[str, Any], max_steps: int) -> str:
    """A log record for people: the losses, what tells whether learning goes well, speed and time left."""
    shown = [f"step {record['step']}/{max_steps}"]
    shown += [f"{name.removesuffix('/loss')} {value:.4g}" for name, value in record.items() if name.endswith("/loss")]
    shown.append(f"lr {record['lr']:.2e}")
    if "grad_norm" in record:  # not after an interval whose steps were all skipped
        shown.append(f"grad {record['grad_norm']:.3g}")
    shown.append(f"{record['samples_per_s']:.1f} samples/s")
    if "utilisation" in record:
        shown.append(f"use {record['utilisation']:.0%}")
    if record["data_wait"] >= 0.05:
        shown.append(f"waiting for data {record['data_wait']:.0%}")
    shown.append(f"left {duration((max_steps - record['step']) * record['step_seconds'])}")
    return "  ".join(shown)
