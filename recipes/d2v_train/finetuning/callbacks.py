"""Callbacks and schedules of fine-tuning."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from d2v_train.data.records import RawDataset


AVERAGE_FILE = "weights_average.safetensors"
START_SCALE, END_SCALE = 0.01, 0.05
"""Learning rate before warm-up and after decay of the three-stage schedule, as shares of the peak."""


def tri_stage(step: int, total: int, phases: tuple[float, float, float]) -> float:
    """Return the share of the peak learning rate: linear warm-up from 1 %, hold, exponential decay to 5 %.

    This is the schedule of wav2vec 2.0.

    Args:
        step: Number of finished updates.
        total: Number of updates of the run.
        phases: Shares of the run for warm-up, hold and decay.
    """
    warmup, hold = phases[0] * total, phases[1] * total
    if step < warmup:
        return START_SCALE + (1 - START_SCALE) * step / warmup
    if step <= warmup + hold:
        return 1.0
    progress = min((step - warmup - hold) / max(total - warmup - hold, 1e-9), 1.0)
    return math.exp(math.log(END_SCALE) * progress)


def check_bad_samples(datasets: Mapping[str, RawDataset], max_fraction: float) -> None:
    """Check the share of unusable samples of each data set.

    Raises:
        ValueError: If it is above `max_fraction`; the message names samples.
    """
    for name, dataset in datasets.items():
        if dataset.bad.total > max_fraction * dataset.bad.size:
            raise ValueError(
                f"{dataset.bad.total} of {dataset.bad.size} samples of the {name} data are unusable, more than "
                f"--max_bad_fraction {max_fraction:g} allows. {dataset.bad.report()}"
            )


def check_finite(name: str, value: float | torch.Tensor, step: int) -> None:
    """Check that a value of the training is finite.

    Raises:
        ValueError: If it is not.
    """
    if not math.isfinite(value):
        raise ValueError(
            f"The {name} became {float(value)} after {step} updates. Lower --learning_rate, lengthen the warm-up "
            "(--warmup_steps), or lower --max_grad_norm; checkpoints in --output_dir, if any, are from before."
        )


class WeightsAverage:
    """Exponential moving average of a model's weights, in float32.

    Args:
        model: Model whose trained parameters are averaged; buffers are not.
        decay: Share of the old average that is kept at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; call it after each optimizer step."""
        current = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - self.decay)

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the average into the weights of the model."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.values[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averaged weights as those of the model inside the context."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.keep()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(own[name])

    def save(self, folder: str | Path) -> None:
        """Write the average into the folder of a checkpoint."""
        save_file(self.values, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> None:
        """Read the average from the folder of a checkpoint.

        Raises:
            ValueError: If the checkpoint has no average, or the average of other weights.
        """
        path = Path(folder) / AVERAGE_FILE
        if not path.is_file():
            raise ValueError(f"{folder} has no {AVERAGE_FILE}: it was written without --weights_ema_decay.")
        stored = load_file(path)
        if stored.keys() != self.values.keys():
            raise ValueError(f"{path} averages other weights than this run trains.")
        for name, value in stored.items():
            self.values[name].copy_(value)


class FreezeEncoder(TrainerCallback):
    """Freeze the encoder for the first updates, which train only the head.

    Parameters that were frozen before stay frozen.
    """

    def __init__(self, encoder: nn.Module, steps: int) -> None:
        self.parameters = [p for p in encoder.parameters() if p.requires_grad]
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trains = state.global_step >= self.steps
        if self.parameters and self.parameters[0].requires_grad != trains:
            for parameter in self.parameters:
                parameter.requires_grad = trains
                if not trains:
                    parameter.grad = None


class EarlyStopping(TrainerCallback):
    """Stop when the metric of --metric_for_best_model has not improved for some evaluations.

    The decision depends only on the log, which every checkpoint contains: a resumed run stops at the same step.

    Args:
        patience: Number of evaluations without improvement.
        threshold: Smallest change that counts as an improvement.
    """

    def __init__(self, patience: int, threshold: float = 0.0) -> None:
        self.patience, self.threshold = patience, threshold

    def waited(self, args: Any, state: Any) -> int:
        """Return the number of evaluations since the last improvement."""
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        best, waited = None, 0
        for value in (entry[name] for entry in state.log_history if name in entry):
            gain = math.inf if best is None else (value - best if args.greater_is_better else best - value)
            waited = 0 if gain > self.threshold else waited + 1
            best = value if gain > 0 else best
        return waited

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = self.waited(args, state) >= self.patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.waited(args, state) >= self.patience


class SetEpoch(TrainerCallback):
    """Set the epoch of the training data.

    The data loader does this only in a single process, and not in the epoch in which a run is resumed.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


class UpdateAverage(TrainerCallback):
    """Update the `WeightsAverage` of the trainer after each optimizer step."""

    def __init__(self, average: WeightsAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update()
