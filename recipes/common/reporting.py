"""What a log record holds: sums over the forward passes of an interval, and what is measured at its end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from recipes.common.batches import MicroBatch
from recipes.common.diagnostics import TargetWatch
from recipes.common.processes import Processes
from recipes.common.runlog import MetricsWindow
from recipes.common.throughput import SpeedMeter


class StepMeter:
    """Collects what the forward passes of a log interval report, and makes its record.

    Args:
        processes: of the run; sums stay on the device of this one.
        speed: what else it asks for its records.

    Attributes:
        samples: samples seen since the run began.
    """

    def __init__(self, processes: Processes, speed: SpeedMeter):
        self.processes, self.speed = processes, speed
        self.window = MetricsWindow(processes.device)
        self.watch = TargetWatch(processes.device, self.window.dtype)
        self.samples = 0

    def collect(self, batch: MicroBatch, output: Any, first: bool) -> None:
        """Adds what a forward pass reports to the window; `first` of its modality in the step counts the step."""
        # A step's loss is the sum over micro-batches and processes: one process's first part carries its weight.
        weight = int(first and self.processes.main)
        self.window.add(f"{batch.modality}/loss", output.loss, weight)
        for name, value in output.losses.items():
            self.window.add(f"{batch.modality}/loss_{name}", value, weight)
        masks = batch.inputs["mask"].shape[1]
        self.window.add(f"{batch.modality}/masked_fraction", output.num_items, batch.tokens * masks)
        # Once an interval is enough for what is only watched.
        if f"{batch.modality}/target_std" not in self.window.sums:
            self.watch.collect(batch.modality, output)
        self.window.add("samples", len(batch.inputs["mask"]))

    def add_grad_norm(self, norm: Tensor, moved: bool) -> None:
        """Adds the gradient norm of a step; one that was skipped does not count."""
        self.window.add("grad_norm", norm if moved else 0.0, int(moved))

    def finish_step(self) -> None:
        """Adds what was measured of the step's targets. Every process must call it at the end of each step."""
        for name, value in self.watch.finish(self.processes.sum).items():
            self.window.add_if_known(name, value)

    def record(self) -> dict[str, Any]:
        """Means and speeds of the interval that ends here; the next one begins. Every process must call it."""
        samples = self.window.sums["samples"]
        means = self.window.means(self.processes.sum)
        self.samples += round(self.processes.sum(samples).item())
        self.window.clear()
        record = {name: value for name, value in means.items() if name != "samples"}
        return record | {"samples": self.samples} | self.speed.facts()

    def state_dict(self) -> dict[str, int]:
        """Return what all processes have in common; the window is a state of each of them."""
        return {"samples": self.samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the state of a checkpoint."""
        self.samples = state["samples"]
