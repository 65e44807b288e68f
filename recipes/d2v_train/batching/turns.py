"""Samples of a modality's turns: a fixed number, or as many of similar length as a budget of tokens holds.

A turn is a step that takes the modality; turns are counted from 0. Samples are a function of the turn: a resumed run
reads the lengths of earlier samples, not their data.
"""

from __future__ import annotations

import numpy as np

from d2v_train.batching.cutting import even_bounds
from d2v_train.batching.order import Mixture, SampleKey, stable_seed


CHUNK = 2**16
"""Samples whose lengths are read at once."""


class FixedTurns:
    """Every turn takes the next `batch_size` samples of the order.

    Args:
        order: Order of the modality's samples.
        batch_size: Samples of a turn, over all processes.

    Attributes:
        least: Fewest samples of a turn.
        lengths: None, as lengths are not used.
    """

    lengths = None

    def __init__(self, order: Mixture, batch_size: int):
        self.order, self.least = order, batch_size

    def keys(self, turn: int) -> list[SampleKey]:
        """Return the samples of a turn."""
        return self.order.keys(self.position(turn), self.least)

    def position(self, turn: int) -> int:
        """Return the number of samples in the turns before."""
        return turn * self.least


class SortedTurns:
    """Turns of samples that are sorted by length, so that little of a batch is padding.

    The order is cut into stretches of `stretch` turns. With `batch_size` all turns have that many samples. With
    `batch_tokens` a stretch takes as many samples as can be cut into turns within the budget. The samples of a stretch
    are sorted; its turns then have a random order.

    Args:
        order: Order of the modality's samples.
        lengths: (N,) int64, tokens of every sample.
        batch_size: Samples of a turn, instead of `batch_tokens`.
        batch_tokens: Most tokens of a turn, at least the longest sample.
        stretch: Turns whose samples are sorted together.
        seed: Seed of the run.
        label: Name of the modality.

    Attributes:
        least: Fewest samples of a turn, for any lengths.
    """

    def __init__(
        self,
        order: Mixture,
        lengths: np.ndarray,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        stretch: int = 1,
        seed: int = 0,
        label: str = "",
    ):
        self.order, self.lengths = order, lengths
        self.batch_size, self.batch_tokens, self.stretch = batch_size, batch_tokens, stretch
        self.seed, self.label = seed, label
        if batch_size:
            self.least = batch_size
        else:
            # A turn differs from an even share by at most one sample, the share from the budget by one and a half.
            self.least = max(1, int(batch_tokens / int(lengths.max()) - (2.5 if stretch > 1 else 0)))
        self._shortest = int(lengths.min())
        # Known first positions of the stretches of a token budget.
        self._starts = [0]
        self._chunk_start, self._chunk = 0, np.zeros(0, dtype=np.int64)
        self._known: tuple[int, list[list[SampleKey]]] = (-1, [])

    def keys(self, turn: int) -> list[SampleKey]:
        """Return the samples of a turn, ascending by length."""
        number, place = divmod(turn, self.stretch)
        return self._turns(number)[place]

    def position(self, turn: int) -> int:
        """Return the number of samples in the turns before."""
        number, place = divmod(turn, self.stretch)
        start = self._start(number)
        return start + sum(map(len, self._turns(number)[:place])) if place else start

    def _start(self, number: int) -> int:
        """Return the first position of a stretch."""
        if self.batch_size:
            return number * self.stretch * self.batch_size
        while len(self._starts) <= number:
            self._starts.append(self._starts[-1] + self._count(self._starts[-1]))
        return self._starts[number]

    def _count(self, start: int) -> int:
        """Return the number of samples in the stretch of a token budget that begins at a position."""
        lengths = self._lengths_from(start, self.stretch * self.batch_tokens)
        count = len(lengths)
        while count > self.stretch > 1:
            row = np.sort(lengths[:count])
            if np.add.reduceat(row, even_bounds(row, self.stretch)[:-1]).max() <= self.batch_tokens:
                break
            count = max(self.stretch, count - max(1, self.stretch // 4))
        return count

    def _lengths_from(self, start: int, tokens: int) -> np.ndarray:
        """Return the lengths of samples from a position on, enough to fill `tokens` tokens."""
        while True:
            rest = self._chunk[start - self._chunk_start :]
            most = tokens // self._shortest + 1
            count = int(np.searchsorted(np.cumsum(rest[:most]), tokens, side="right"))
            if count < len(rest):
                return rest[:count]
            size = min(CHUNK, max(1024, len(self.lengths)))
            _, indices = self.order.locate(np.arange(start, start + max(size, 2 * len(rest))))
            self._chunk_start, self._chunk = start, self.lengths[indices]

    def _turns(self, number: int) -> list[list[SampleKey]]:
        """Return the samples of each turn of a stretch."""
        if self._known[0] != number:
            start = self._start(number)
            epochs, indices = self.order.locate(np.arange(start, self._start(number + 1)))
            rng = np.random.default_rng(stable_seed(self.seed, "bucket", self.label, number))
            turns = []
            for ranks in sorted_stretch(self.lengths[indices], self.stretch, self.batch_size, rng):
                pairs = zip(epochs[ranks].tolist(), indices[ranks].tolist(), strict=True)
                turns.append([SampleKey(*pair) for pair in pairs])
            self._known = (number, turns)
        return self._known[1]


def sorted_stretch(
    lengths: np.ndarray, turns: int, batch_size: int | None, rng: np.random.Generator
) -> list[np.ndarray]:
    """Cut samples into turns of similar length and return their places, turn by turn, in random order.

    Args:
        lengths: (N,) of the samples.
        turns: Number of turns.
        batch_size: Samples of a turn, N = turns * batch_size; None gives the turns about equal sums of `lengths`.
        rng: Draws the order of the turns.

    Returns:
        `turns` arrays of places below N, ascending by length.
    """
    ranks = np.argsort(lengths, kind="stable")
    bounds = np.arange(0, len(ranks) + 1, batch_size) if batch_size else even_bounds(lengths[ranks], turns)
    return [ranks[bounds[turn] : bounds[turn + 1]] for turn in rng.permutation(turns)]
