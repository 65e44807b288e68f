"""Averages of the metrics of the steps between two records of the log."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from d2v_train.batching.batches import MicroBatch
from d2v_train.measuring.gradients import COSINE
from d2v_train.measuring.speed import SpeedMeter
from d2v_train.measuring.targets import TargetWatch
from d2v_train.support.processes import Processes
from d2v_train.support.text import duration


class StepMeter:
    """Collector of the metrics of a log interval, which makes its record.

    Args:
        processes: Processes of the run; sums stay on the device of this one.
        speed: Meter of the speeds in the records.

    Attributes:
        samples: Samples seen since the run began.
    """

    def __init__(self, processes: Processes, speed: SpeedMeter):
        self.processes, self.speed = processes, speed
        self.window = MetricsWindow(processes.device)
        self.watch = TargetWatch(processes.device, self.window.dtype)
        self.samples = 0

    def collect(self, batch: MicroBatch, output: Any, first: bool) -> None:
        """Add the metrics of a forward pass; `first` of its modality in the step counts the step."""
        # A step's loss is the sum over micro-batches and processes: one process's first part carries its weight.
        weight = int(first and self.processes.main)
        self.window.add(f"{batch.modality}/loss", output.loss, weight)
        for name, value in output.losses.items():
            self.window.add(f"{batch.modality}/loss_{name}", value, weight)
        masks = batch.inputs["mask"].shape[1]
        self.window.add(f"{batch.modality}/masked_fraction", output.mask.sum(), batch.tokens * masks)
        # Once per interval is enough for values that are only watched.
        if f"{batch.modality}/target_std" not in self.window.sums:
            self.watch.collect(batch.modality, output)
        self.window.add("samples", len(batch.inputs["mask"]))

    def add_grad_norm(self, norm: Tensor, moved: bool) -> None:
        """Add the gradient norm of a step; that of a skipped step does not count."""
        self.window.add("grad_norm", norm if moved else 0.0, int(moved))

    def finish_step(self) -> None:
        """Add the measures of the step's targets. Every process must call it at the end of each step."""
        for name, value in self.watch.finish(self.processes.sum).items():
            self.window.add_if_known(name, value)

    def record(self) -> dict[str, Any]:
        """Return means and speeds of the interval and begin the next one. Every process must call it."""
        samples = self.window.sums["samples"]
        means = self.window.means(self.processes.sum)
        self.samples += round(self.processes.sum(samples).item())
        self.window.clear()
        record = {name: value for name, value in means.items() if name != "samples"}
        return record | {"samples": self.samples} | self.speed.facts()

    def state_dict(self) -> dict[str, int]:
        """Return the state that all processes share; each process keeps its own window."""
        return {"samples": self.samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue with the state of a checkpoint."""
        self.samples = state["samples"]


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
        """Start the next interval."""
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, name: str, value: Tensor | float, count: Tensor | float = 1) -> None:
        """Add a value to a sum; `count` is its weight in the mean, 0 for all but the first part of a sum."""
        value = torch.as_tensor(value, dtype=self.dtype, device=self.device).detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.counts[name] += count

    def add_if_known(self, name: str, value: Tensor) -> None:
        """Add a value; NaN means that nothing could be measured and does not count in the mean."""
        known = value.isfinite()
        self.add(name, value.nan_to_num(0.0, 0.0, 0.0), known.to(self.dtype))

    def means(self, reduce=None) -> dict[str, float]:
        """Return the means over the interval, without values that were not counted.

        Args:
            reduce: Sums a tensor over all processes, which must have the same names.
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
        """Return this process's part of an unfinished interval, as JSON values."""
        return {
            "sums": {name: value.item() for name, value in self.sums.items()},
            "counts": {name: float(count) for name, count in self.counts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the interval of a state."""
        self.clear()
        for name, value in state["sums"].items():
            self.add(name, value, state["counts"][name])


def one_line(record: dict[str, Any], max_steps: int) -> str:
    """Return a human-readable log record: losses, signs of learning, speed and remaining time."""
    shown = [f"step {record['step']}/{max_steps}"]
    shown += [f"{name.removesuffix('/loss')} {value:.4g}" for name, value in record.items() if name.endswith("/loss")]
    shown.append(f"lr {record['lr']:.2e}")
    if "grad_norm" in record:  # missing if all steps of the interval were skipped
        shown.append(f"grad {record['grad_norm']:.3g}")
    pairs = {name: value for name, value in record.items() if name.startswith(f"{COSINE}/")}
    if pairs:  # in the lines of steps at which gradients were compared
        shown.append("cosines " + " ".join(f"{name.split('/')[1]} {value:+.2f}" for name, value in pairs.items()))
    shown.append(f"{record['samples_per_s']:.1f} samples/s")
    if "utilisation" in record:
        shown.append(f"use {record['utilisation']:.0%}")
    if record["data_wait"] >= 0.05:
        shown.append(f"waiting for data {record['data_wait']:.0%}")
    shown.append(f"left {duration((max_steps - record['step']) * record['step_seconds'])}")
    return "  ".join(shown)
