"""Batches of recordings of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from d2v_train.batching.order import stable_seed
from d2v_train.batching.turns import sorted_stretch


class LengthSampler(Sampler):
    """Random order in which the samples of an update are about equally long, a function of seed and epoch.

    Args:
        lengths: length of each sample; NaN counts as 0.
        batch_size: samples of an update, over all processes and accumulated batches. Within it they ascend by length,
            so that each micro-batch is even too.
        seed: of the order.
        epoch: tells the epoch, counted from 0.
        stretch: updates whose samples are sorted together; more of them pad less and mix less.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, seed: int, epoch: Callable[[], int], stretch: int = 50
    ) -> None:
        self.lengths = np.nan_to_num(np.asarray(lengths, dtype=np.float64))
        self.batch_size, self.seed, self.epoch, self.stretch = batch_size, seed, epoch, stretch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(stable_seed(self.seed, "order by length", self.epoch()))
        order = rng.permutation(len(self.lengths))
        # Batches are cut by counting: one that is not full can only be the last.
        full = len(order) // self.batch_size
        batches, last = np.split(order, [full * self.batch_size])
        # At least four stretches, or a small data set would be batched in the same way in every epoch.
        size = self.batch_size * max(1, min(self.stretch, full // 4))
        for start in range(0, len(batches), size):
            part = batches[start : start + size]
            turns = sorted_stretch(self.lengths[part], len(part) // self.batch_size, self.batch_size, rng)
            yield from part[np.concatenate(turns)].tolist()
        yield from last[np.argsort(self.lengths[last], kind="stable")].tolist()
