"""Which samples an optimizer step sees: a function of the step alone, so that a run resumes anywhere without state.

The plan is global. Each process takes its contiguous part of a step's samples and cuts it into micro-batches; neither
the number of processes, of micro-batches, nor of loader workers changes which samples a step learns from, how they are
cropped, or how they are masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from recipes.common.data_report import DataReport, collect_data_report, usable_item
from recipes.common.preemption import protect_worker
from recipes.common.sample_order import Mixture, SampleKey, spread_pattern, stable_seed


class MicroBatch(NamedTuple):
    """What one forward pass takes."""

    modality: str
    inputs: dict[str, torch.Tensor]
    tokens: int
    """Real tokens of the samples, masked or not."""
    report: DataReport | None = None
    """What was met in the data while it was prepared."""


class BatchPlan:
    """Modality and samples of every step.

    Args:
        sizes: by modality, the number of samples, or the order of several sources.
        batch_sizes: samples a step by modality, over all processes.
        ratios: relative frequency of the modalities; None = equal. With `mixed` they play no part here.
        seed: seed of the sample order.
        mixed: every step takes a batch of every modality, instead of one modality a step.

    Raises:
        ValueError: a modality has no samples.
    """

    def __init__(
        self,
        sizes: Mapping[str, int | Mixture],
        batch_sizes: Mapping[str, int],
        ratios: Mapping[str, float] | None = None,
        seed: int = 0,
        mixed: bool = False,
    ):
        self.orders = {
            name: size if isinstance(size, Mixture) else Mixture([size], None, seed, name)
            for name, size in sizes.items()
        }
        self.sizes = {name: len(order) for name, order in self.orders.items()}
        self.batch_sizes, self.mixed = dict(batch_sizes), mixed
        self.pattern = spread_pattern({name: (ratios or {}).get(name, 1.0) for name in sizes})
        # earlier[m][i]: how many of the pattern's first i steps belong to modality m
        self._earlier = {
            name: list(itertools.accumulate((entry == name for entry in self.pattern), initial=0)) for name in sizes
        }

    def modalities_at(self, step: int) -> list[str]:
        """Modalities that take part in a step (counted from 0)."""
        return list(self.sizes) if self.mixed else [self.pattern[step % len(self.pattern)]]

    def turns_before(self, step: int, modality: str) -> int:
        """How many steps before this one took the modality."""
        if self.mixed:
            return step
        rounds, place = divmod(step, len(self.pattern))
        return rounds * self._earlier[modality][-1] + self._earlier[modality][place]

    def samples(self, step: int, modality: str) -> list[SampleKey]:
        """The global batch of a modality at a step: epoch and index of each sample, in order.

        An epoch is one pass over a source in its own order; batches run over its end into the next.
        """
        batch = self.batch_sizes[modality]
        return self.orders[modality].keys(self.turns_before(step, modality) * batch, batch)

    def epochs(self, step: int, modality: str) -> list[float]:
        """Passes over each source of the modality that are done before a step."""
        return self.orders[modality].epochs(self.turns_before(step, modality) * self.batch_sizes[modality])


def part(items: list, index: int, parts: int) -> list:
    """The index-th of `parts` contiguous pieces whose lengths differ by at most one."""
    return items[len(items) * index // parts : len(items) * (index + 1) // parts]


class StepDataset(Dataset):
    """Item `step` = this process's micro-batches of that step, transformed, collated and masked.

    Args:
        plan: the global plan.
        datasets: records by modality.
        transforms: `transform(record, seed=...) -> item` by modality.
        collator: `collator(items, step) -> inputs` with the masks drawn.
        count_tokens: `count_tokens(modality, inputs) -> int`, real tokens of a batch; None counts padding in.
        seed: seed of the augmentation.
        accumulate: micro-batches that each modality's part is cut into.
        rank, world_size: this process among all.
        fingerprint: what tells the data of the run from other data, by modality; kept with each checkpoint.

    Raises:
        ValueError: a process or micro-batch would get no sample.
    """

    def __init__(
        self,
        plan: BatchPlan,
        datasets: Mapping[str, Dataset],
        transforms: Mapping[str, Callable],
        collator: Callable[[list[dict[str, Any]], int], dict[str, torch.Tensor]],
        count_tokens: Callable[[str, dict[str, torch.Tensor]], int] | None = None,
        seed: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        fingerprint: Mapping[str, Mapping[str, int | str]] | None = None,
    ):
        for name, batch in plan.batch_sizes.items():
            if batch < world_size * accumulate:
                raise ValueError(
                    f"{name}.batch_size is {batch}, too few for {world_size} processes with {accumulate} "
                    f"micro-batches each. Raise it to at least {world_size * accumulate}, or lower accumulate."
                )
        self.plan, self.datasets, self.transforms, self.collator = plan, datasets, transforms, collator
        self.count_tokens = count_tokens or _all_tokens
        self.seed, self.accumulate, self.rank, self.world_size = seed, accumulate, rank, world_size
        self.fingerprint = {name: dict(values) for name, values in (fingerprint or {}).items()}

    def __getitem__(self, step: int) -> list[MicroBatch]:
        batches = []
        for modality in self.plan.modalities_at(step):
            own = part(self.plan.samples(step, modality), self.rank, self.world_size)
            for piece in range(self.accumulate):
                with collect_data_report() as report:
                    items = [self._item(modality, key) for key in part(own, piece, self.accumulate)]
                inputs = self.collator(items, step)
                batches.append(MicroBatch(modality, inputs, self.count_tokens(modality, inputs), report.packed()))
        return batches

    def epochs(self, step: int) -> dict[str, float]:
        """Passes over each source that are done before a step, by the names that a log record gives them."""
        found = {}
        for modality, dataset in self.datasets.items():
            epochs = self.plan.epochs(step, modality)
            names = getattr(dataset, "names", None) or [""]
            found |= {f"{modality}/epoch_{name}".rstrip("_"): round(epoch, 4)
                      for name, epoch in zip(names, epochs, strict=True)}  # fmt: skip
        return found

    def _item(self, modality: str, key: SampleKey) -> dict[str, Any]:
        seed = stable_seed(self.seed, "augment", modality, *key)
        return usable_item(self.datasets[modality], key.index, self.transforms[modality], modality, seed)


def load_steps(
    dataset: StepDataset, first: int, last: int, num_workers: int = 0, prefetch: int = 2, pin_memory: bool = False
) -> Iterator[list[MicroBatch]]:
    """Micro-batches of steps first..last-1 in order, prepared ahead by `num_workers` processes.

    The loader has its own generator, so that drawing its base seed leaves the training's random state alone.
    """
    return iter(
        DataLoader(
            dataset,
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


def _all_tokens(modality: str, inputs: dict[str, torch.Tensor]) -> int:
    return inputs["mask"][:, 0].numel()


def _unchanged(batches: list[MicroBatch]) -> list[MicroBatch]:
    return batches
