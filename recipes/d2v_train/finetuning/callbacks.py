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
    """Share of the peak learning rate: linear warm-up from 1 %, hold, exponential decay to 5 % (wav2vec 2.0).

    Args:
        step: finished updates.
        total: updates of the run.
        phases: shares of the run that are warm-up, hold and decay.
    """
    warmup, hold = phases[0] * total, phases[1] * total
    if step < warmup:
        return START_SCALE + (1 - START_SCALE) * step / warmup
    if step <= warmup + hold:
        return 1.0
    progress = min((step - warmup - hold) / max(total - warmup - hold, 1e-9), 1.0)
    return math.exp(math.log(END_SCALE) * progress)


def check_bad_samples(datasets: Mapping[str, RawDataset], max_fraction: float) -> None:
    """Stops a run whose data is broken beyond what one can overlook.

    Raises:
        ValueError: if more than `max_fraction` of a data set is unusable; the message names samples.
    """
    for name, dataset in datasets.items():
        if dataset.bad.total > max_fraction * len(dataset):
            raise ValueError(
                f"{dataset.bad.total} of {len(dataset)} samples of the {name} data are unusable, more than "
                f"--max_bad_fraction {max_fraction:g} allows. {dataset.bad.report()}"
            )


def check_finite(name: str, value: float | torch.Tensor, step: int) -> None:
    """Stops a run that has diverged.

    Raises:
        ValueError: if the value is no finite number.
    """
    if not math.isfinite(value):
        raise ValueError(
            f"The {name} became {float(value)} after {step} updates. Lower --learning_rate, lengthen the warm-up "
            "(--warmup_steps), or lower --max_grad_norm; the checkpoints up to here are whole."
        )


class WeightsAverage:
    """Exponential moving average of a model's weights, in float32.

    Args:
        model: what is averaged; buffers are not.
        decay: share of the old average that stays at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.values = {name: p.detach().float().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights; after each optimizer step."""
        current = [p.detach().float() for p in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), current, 1 - self.decay)

    @torch.no_grad()
    def keep(self) -> None:
        """Makes the average the weights of the model."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.values[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the context."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.keep()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(own[name])

    def save(self, folder: str | Path) -> None:
        """Writes the average into a checkpoint's folder."""
        save_file(self.values, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> None:
        """Reads it back.

        Raises:
            ValueError: if the checkpoint has no average, or one of other weights.
        """
        path = Path(folder) / AVERAGE_FILE
        if not path.is_file():
            raise ValueError(f"{folder} has no {AVERAGE_FILE}: it was written without --weights_ema_decay.")
        stored = load_file(path)
        if stored.keys() != self.values.keys():
            raise ValueError(f"{path} averages other weights than those that this run trains.")
        for name, value in stored.items():
            self.values[name].copy_(value)


class FreezeEncoder(TrainerCallback):
    """Keeps the encoder as it is for the first updates, while the head finds its place.

    What was frozen from the start stays frozen.
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
    """Stops when the metric of --metric_for_best_model has not improved for some evaluations.

    A function of the log, which every checkpoint holds: a run that goes on stops where it would have stopped.

    Args:
        patience: evaluations without improvement.
        threshold: least change that is an improvement.
    """

    def __init__(self, patience: int, threshold: float = 0.0) -> None:
        self.patience, self.threshold = patience, threshold

    def waited(self, args: Any, state: Any) -> int:
        """Evaluations since the last improvement."""
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


class TellEpoch(TrainerCallback):
    """Tells the training data the epoch.

    The data loader does so itself in one process only, and not in the epoch in which a run goes on.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))


class AverageWeights(TrainerCallback):
    """Updates the trainer's `WeightsAverage`."""

    def __init__(self, average: WeightsAverage) -> None:
        self.average = average

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.average.update()
