"""The order of the samples of a modality: a function of the position alone.

A position counts the samples of the modality since the run began. It belongs to one source, by a periodic pattern of
the sources, and within the source to an epoch and a place, each epoch in its own order. The order does not depend on
how samples are read, so a run can resume anywhere, with any number of workers and processes.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np


LONGEST_PATTERN = 2**16
"""Entries of the pattern that takes sources in proportion to their sizes; the proportion is rounded to this."""
KEPT_ORDERS = 4
"""Permutations that a source caches."""


class SampleKey(NamedTuple):
    """A sample at one place of the run."""

    epoch: int
    """Number of completed passes over its source."""
    index: int
    """Index in the concatenated sources of the modality; the id that masks depend on."""


def stable_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) from any parts, the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def spread_pattern(ratios: Mapping[str, float], longest: int = 1000) -> list[str]:
    """Return the shortest periodic sequence with the given frequencies, each name spread evenly over it.

    >>> spread_pattern({"audio": 2, "vision": 1})
    ['audio', 'vision', 'audio']
    """
    total = sum(ratios.values())
    shares = {name: Fraction(ratio / total).limit_denominator(longest) for name, ratio in ratios.items()}
    unit = 1
    for share in shares.values():
        unit = int(np.lcm(unit, share.denominator))
    if unit > longest:
        unit = longest
    counts = {name: max(1, round(share * unit)) for name, share in shares.items()}
    places = [((turn + 0.5) / count, order, name)
              for order, (name, count) in enumerate(counts.items()) for turn in range(count)]  # fmt: skip
    return [name for _, _, name in sorted(places)]


class SourceOrder:
    """Order of the samples of one source.

    Without a block every epoch is one permutation of all samples. With one, the source is cut into blocks of
    consecutive samples; every epoch permutes the blocks, and the samples in each, so that one block is needed at a
    time.

    Args:
        size: Number of samples.
        seed: Seed of the run.
        label: Distinguishes the sources of a run.
        block: Samples of a block; None, or all of them, permutes all.
    """

    def __init__(self, size: int, seed: int, label: str, block: int | None = None):
        self.size, self.seed, self.label = size, seed, label
        self.block = None if block is None or block >= size else block
        self._orders: dict[tuple[str | int, ...], np.ndarray] = {}

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return epoch and index within the source at ascending positions, both int64 (N,)."""
        epochs, places = np.divmod(positions, self.size)
        indices = np.empty_like(places)
        names, starts = np.unique(epochs, return_index=True)
        for epoch, own in zip(names.tolist(), _slices(starts, len(places)), strict=True):
            if self.block is None:
                indices[own] = self._permutation(self.size, "order", epoch)[places[own]]
            else:
                indices[own] = self._in_blocks(epoch, places[own])
        return epochs, indices

    def _in_blocks(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """Return indices at ascending places of an epoch."""
        count = -(-self.size // self.block)
        blocks = self._permutation(count, "blocks", epoch)
        sizes = np.where(blocks == count - 1, self.size - (count - 1) * self.block, self.block)
        ends = np.cumsum(sizes)
        turns = np.searchsorted(ends, places, side="right")
        indices = np.empty_like(places)
        names, starts = np.unique(turns, return_index=True)
        for turn, own in zip(names.tolist(), _slices(starts, len(places)), strict=True):
            block, size = int(blocks[turn]), int(sizes[turn])
            inside = places[own] - (ends[turn] - size)
            indices[own] = block * self.block + self._permutation(size, "order", epoch, block)[inside]
        return indices

    def _permutation(self, size: int, kind: str, *parts: int) -> np.ndarray:
        name = (kind, *parts)
        if name not in self._orders:
            while len(self._orders) >= KEPT_ORDERS:
                self._orders.pop(next(iter(self._orders)))
            rng = np.random.default_rng(stable_seed(self.seed, kind, self.label, *parts))
            self._orders[name] = rng.permutation(size)
        return self._orders[name]


def _slices(starts: np.ndarray, size: int) -> list[slice]:
    """Return the slices that begin at `starts`, the last one up to `size`."""
    return [slice(first, last) for first, last in itertools.pairwise([*starts.tolist(), size])]


class Mixture:
    """Order of the samples of one modality, from one or several sources.

    Args:
        sizes: Samples of each source.
        ratios: How often each source is taken, relative to the others; None, or None for all of them, takes them in
            proportion to their sizes. Where only some have a ratio, the others have 1.
        seed: Seed of the run.
        label: Name of the modality.
        block: See `SourceOrder`.

    Raises:
        ValueError: A source has no samples.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ratios: Sequence[float | None] | None,
        seed: int,
        label: str,
        block: int | None = None,
    ):
        self.sizes = list(sizes)
        for number, size in enumerate(self.sizes, start=1):
            if size < 1:
                which = f"Source {number} of the {label} data" if len(self.sizes) > 1 else f"The {label} data"
                raise ValueError(f"{which} has no samples. Check its source and split.")
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        # The first source has the same order as alone.
        labels = [label if number == 0 else f"{label} {number}" for number in range(len(self.sizes))]
        self.orders = [SourceOrder(size, seed, name, block) for size, name in zip(self.sizes, labels, strict=True)]
        given = [ratio for ratio in ratios or () if ratio is not None]
        weights = [1.0 if ratio is None else ratio for ratio in ratios] if given else self.sizes
        pattern = spread_pattern(dict(enumerate(weights)), longest=1000 if given else LONGEST_PATTERN)
        self._pattern = np.array(pattern)
        taken = self._pattern[:, None] == np.arange(len(self.sizes))
        # _earlier[i, s]: number of the pattern's first i entries that are of source s
        self._earlier = np.concatenate([np.zeros((1, len(self.sizes)), dtype=np.int64), np.cumsum(taken, axis=0)])

    def __len__(self) -> int:
        """Return the number of samples in all sources."""
        return sum(self.sizes)

    def keys(self, first: int, count: int) -> list[SampleKey]:
        """Return epoch and index of the samples at `count` positions from `first` on."""
        epochs, indices = self.locate(np.arange(first, first + count))
        return [SampleKey(*pair) for pair in zip(epochs.tolist(), indices.tolist(), strict=True)]

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return epoch and index over all sources at ascending positions, both int64 (N,)."""
        rounds, places = np.divmod(positions, len(self._pattern))
        sources = self._pattern[places]
        epochs, indices = np.empty_like(positions), np.empty_like(positions)
        for number in np.unique(sources).tolist():
            chosen = sources == number
            own = rounds[chosen] * self._earlier[-1, number] + self._earlier[places[chosen], number]
            epochs[chosen], indices[chosen] = self.orders[number].locate(own)
            indices[chosen] += self.offsets[number]
        return epochs, indices

    def epochs(self, position: int) -> list[float]:
        """Return the number of passes over each source before a position."""
        rounds, place = divmod(position, len(self._pattern))
        taken = rounds * self._earlier[-1] + self._earlier[place]
        return [count / size for count, size in zip(taken.tolist(), self.sizes, strict=True)]
