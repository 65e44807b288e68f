"""The samples of each optimizer step: a function of the step alone, so that a run resumes anywhere without state.

The plan is global. Each process takes its contiguous part of a step's samples and cuts it into micro-batches. The
samples of a step, their crops and masks do not depend on the number of processes, micro-batches or loader workers.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from d2v_train.batching.cutting import pass_bounds
from d2v_train.batching.order import SampleKey, spread_pattern, stable_seed
from d2v_train.batching.turns import FixedTurns, SortedTurns
from d2v_train.data.report import DataReport, NoUsableSample
from d2v_train.data.substitutes import usable_item
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.processes import ONE_PROCESS, Processes


class MicroBatch(NamedTuple):
    """Input of one forward pass."""

    modality: str
    inputs: dict[str, torch.Tensor]
    tokens: int
    """Real tokens of the samples, masked or not."""
    report: DataReport | None = None
    """Problems of the data that were found during preparation."""


class PassLimit(NamedTuple):
    """Largest forward pass on a device."""

    samples: int | None
    tokens: int | None
    """Including padding."""


class ModalityData(NamedTuple):
    """Data of a modality, from which its steps are drawn."""

    dataset: Dataset
    """Records."""
    transform: Callable[..., dict[str, Any]]
    """`transform(record, seed=...) -> item`."""
    turns: FixedTurns | SortedTurns
    """Samples of each step that takes the modality."""
    limit: PassLimit | None = None
    """Largest micro-batch, from which their number follows; None cuts a step into `accumulate` parts."""
    fingerprint: Mapping[str, int | str] = {}
    """Identity of the data, saved with each checkpoint."""


class BatchPlan:
    """Modality and samples of every step.

    Args:
        turns: Samples of each turn, by modality.
        ratios: Relative frequency of the modalities; None = equal. Not used with `mixed`.
        mixed: Every step takes a batch of every modality, instead of one modality per step.

    Attributes:
        sizes: Number of samples by modality.
    """

    def __init__(
        self,
        turns: Mapping[str, FixedTurns | SortedTurns],
        ratios: Mapping[str, float] | None = None,
        mixed: bool = False,
    ):
        self.turns, self.mixed = dict(turns), mixed
        self.sizes = {name: len(turns.order) for name, turns in self.turns.items()}
        self.pattern = spread_pattern({name: (ratios or {}).get(name, 1.0) for name in turns})
        # earlier[m][i]: number of steps of modality m among the pattern's first i steps
        self._earlier = {
            name: list(itertools.accumulate((entry == name for entry in self.pattern), initial=0)) for name in turns
        }

    def modalities_at(self, step: int) -> list[str]:
        """Return the modalities that take part in a step (counted from 0)."""
        return list(self.sizes) if self.mixed else [self.pattern[step % len(self.pattern)]]

    def turns_before(self, step: int, modality: str) -> int:
        """Return the number of steps before this one that took the modality."""
        if self.mixed:
            return step
        rounds, place = divmod(step, len(self.pattern))
        return rounds * self._earlier[modality][-1] + self._earlier[modality][place]

    def samples(self, step: int, modality: str) -> list[SampleKey]:
        """Return the global batch of a modality at a step: epoch and index of each sample, in order.

        An epoch is one pass over a source in its own order; batches run over its end into the next.
        """
        return self.turns[modality].keys(self.turns_before(step, modality))

    def epochs(self, step: int, modality: str) -> list[float]:
        """Return the number of passes over each source of the modality before a step."""
        turns = self.turns[modality]
        return turns.order.epochs(turns.position(self.turns_before(step, modality)))


def part(items: list, index: int, parts: int) -> list:
    """Return the index-th of `parts` contiguous pieces whose lengths differ by at most one."""
    return items[len(items) * index // parts : len(items) * (index + 1) // parts]


class StepDataset(Dataset):
    """Item `step` = this process's micro-batches of that step, transformed, collated and masked.

    Args:
        plan: The global plan.
        data: Data by modality.
        collator: `collator(items, step) -> inputs` with the masks drawn.
        count_tokens: `count_tokens(modality, inputs) -> int`, real tokens of a batch; None includes padding.
        seed: Seed of the augmentation.
        accumulate: Micro-batches of a modality without a limit.
        processes: Processes of the run, which share a step.

    Attributes:
        fingerprint: Identity of the data by modality, saved with each checkpoint.

    Raises:
        ValueError: A process or micro-batch would get no sample.
    """

    def __init__(
        self,
        plan: BatchPlan,
        data: Mapping[str, ModalityData],
        collator: Callable[[list[dict[str, Any]], int], dict[str, torch.Tensor]],
        count_tokens: Callable[[str, dict[str, torch.Tensor]], int] | None = None,
        seed: int = 0,
        accumulate: int = 1,
        processes: Processes = ONE_PROCESS,
    ):
        for name, turns in plan.turns.items():
            passes = accumulate if data[name].limit is None else 1
            if turns.least < processes.count * passes:
                raise ValueError(
                    f"A step of {name} may have only {turns.least} samples, too few for {processes.count} "
                    f"processes with {passes} micro-batches each. Raise {name}.batch_size or {name}.batch_tokens so "
                    f"that it has {processes.count * passes}, or lower accumulate."
                )
        self.plan, self.data, self.collator = plan, dict(data), collator
        self.count_tokens = count_tokens or _all_tokens
        self.seed, self.accumulate, self.processes = seed, accumulate, processes
        self.fingerprint = {name: dict(each.fingerprint) for name, each in data.items()}

    def __getitem__(self, step: int) -> list[MicroBatch]:
        return [
            batch
            for modality in self.plan.modalities_at(step)
            for batch in self.micro_batches(modality, self.plan.samples(step, modality), step)
        ]

    def micro_batches(self, modality: str, samples: list[SampleKey], step: int) -> list[MicroBatch]:
        """Return this process's micro-batches of samples that all processes share, with the masks of a step."""
        batches = []
        for keys in self.own_passes(samples, modality):
            report = DataReport()
            items = [self._item(modality, key, report) for key in keys]
            inputs = self.collator(items, step)
            batches.append(MicroBatch(modality, inputs, self.count_tokens(modality, inputs), report))
        return batches

    @property
    def transforms(self) -> dict[str, Callable[..., dict[str, Any]]]:
        """Return the transforms by modality."""
        return {name: data.transform for name, data in self.data.items()}

    def own_passes(self, keys: list[SampleKey], modality: str) -> list[list[SampleKey]]:
        """Return the samples of each forward pass of this process, out of those of a step."""
        lengths, limit = self.plan.turns[modality].lengths, self.data[modality].limit
        if lengths is None and limit is None:
            own = part(keys, self.processes.rank, self.processes.count)
            return [part(own, piece, self.accumulate) for piece in range(self.accumulate)]
        if lengths is not None:
            lengths = lengths[[key.index for key in keys]]
        bounds = pass_bounds(len(keys), lengths, self.processes.count, self.accumulate, *(limit or (None, None)))
        pieces = [keys[first:last] for first, last in itertools.pairwise(bounds)]
        return part(pieces, self.processes.rank, self.processes.count)

    def epochs(self, step: int) -> dict[str, float]:
        """Return the number of passes over each source before a step, by their names in the log."""
        found = {}
        for modality, data in self.data.items():
            epochs = self.plan.epochs(step, modality)
            names = getattr(data.dataset, "names", None) or [""]
            found |= {f"{modality}/epoch_{name}".rstrip("_"): round(epoch, 4)
                      for name, epoch in zip(names, epochs, strict=True)}  # fmt: skip
        return found

    def _item(self, modality: str, key: SampleKey, report: DataReport) -> dict[str, Any]:
        seed = stable_seed(self.seed, "augment", modality, *key)
        data = self.data[modality]
        return usable_item(data.dataset, key.index, data.transform, modality, seed, report)


def load_steps(
    dataset: StepDataset, first: int, last: int, num_workers: int = 0, prefetch: int = 2, pin_memory: bool = False
) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of steps first..last-1 in order, prepared ahead by `num_workers` processes.

    The loader has its own generator, so that drawing its base seed does not change the training's random state.

    Raises:
        NoUsableSample, MissingDependencyError: At the step where a worker raised it.
    """
    loaded = iter(
        DataLoader(
            _ErrorsAsItems(dataset),
            sampler=range(first, last),
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=pin_memory,
            worker_init_fn=protect_worker,
            generator=torch.Generator().manual_seed(0),
        )
    )
    return map(_batches_or_raise, loaded)


class _ErrorsAsItems(Dataset):
    """Data set that returns the errors with messages for users instead of raising them.

    A `DataLoader` makes a new exception from the text of a worker's traceback, without attributes and message of the
    original one. Items arrive unchanged.
    """

    def __init__(self, dataset: StepDataset):
        self.dataset = dataset

    def __getitem__(self, step: int) -> list[MicroBatch] | NoUsableSample | MissingDependencyError:
        try:
            return self.dataset[step]
        except (NoUsableSample, MissingDependencyError) as error:
            return error


def _batches_or_raise(item: list[MicroBatch] | Exception) -> list[MicroBatch]:
    if isinstance(item, Exception):
        raise item
    return item


def _all_tokens(modality: str, inputs: dict[str, torch.Tensor]) -> int:
    return inputs["mask"][:, 0].numel()


def _unchanged(batches: list[MicroBatch]) -> list[MicroBatch]:
    return batches


def protect_worker(_: int = 0) -> None:
    """Protect a data-loading process from signals meant for the training, and end it with the training.

    A scheduler signals every process of a job. If that ended a worker, the batch of the step that is to be finished
    would be lost. Only the training itself ends workers, when it is done.
    """
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        training = os.getppid()
        # Blocked in every thread, so that only the waiting one receives it, with the number of the sender.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(training,), daemon=True).start()
        # PR_SET_PDEATHSIG; without it a worker notices some seconds later that its training was killed.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != training:
            os._exit(1)


def _end_when_told(training: int) -> None:
    """End this process at the first SIGTERM sent by the process `training`, and ignore others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != training:
        pass
    os._exit(0)
