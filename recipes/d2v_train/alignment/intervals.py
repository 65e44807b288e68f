"""Intervals over concepts, by subsampling.

The concepts are the sample: other concepts would have given another score. A bootstrap, which draws concepts with
replacement, fails here. A concept that is drawn twice is its own nearest neighbour in both modalities, has distance
zero to itself, and lies in the training and the test fold at once, so every measure rises with the number of copies.
Leaving copies out keeps 63 % of the concepts, and the spread is then that of draws without replacement, too narrow
by a fourth, unless it is rescaled.

So concepts are drawn without replacement and the spread is rescaled (delete-d jackknife, Wu 1986; Shao and Wu 1989,
which is also valid for statistics that are not smooth, such as nearest neighbours). The score depends on the number of
concepts, so the deviations from the mean over the subsets are used, not their level.

Legend: n concepts, m of a subset, R subsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


DRAWS = 2000
SHARE = 0.8
"""Share of the concepts in a subset: large enough that neighbours stay what they are among all concepts."""


@dataclass(frozen=True)
class Interval:
    """Interval of a score over concepts.

    Attributes:
        low, high: Its ends.
        level: Confidence level.
        draws: Number of subsets.
        subset: Number of concepts of each.
    """

    low: float
    high: float
    level: float
    draws: int
    subset: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def draw_subsets(n: int, draws: int = DRAWS, *, share: float = SHARE, seed: int = 0) -> np.ndarray:
    """Return subsets of the concepts, drawn without replacement: (draws, m), ascending.

    Args:
        n: Number of concepts.
        draws: R.
        share: m / n.
        seed: Of the draws.
    """
    size = min(max(math.ceil(share * n), 4), n - 1)
    if size < 4:
        raise ValueError(f"{n} concepts are too few for subsets of at least four; an interval needs five or more.")
    random = np.random.default_rng(seed)
    return np.stack([np.sort(random.choice(n, size, replace=False)) for _ in range(draws)])


def interval_ends(
    scores: np.ndarray, replicates: np.ndarray, n: int, subset: int, *, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the intervals of scores, from those of subsets.

    Args:
        scores: Scores of all concepts, of any shape.
        replicates: (R, *shape) scores of the subsets.
        n: Number of concepts.
        subset: m.
        level: Confidence level.
    """
    # The variance over subsets of m of n is 1 / m - 1 / n, that of a sample of n is 1 / n of the population's.
    scale = math.sqrt(subset / (n - subset))
    tail = (1 - level) / 2
    low, high = np.quantile(replicates - replicates.mean(axis=0), [tail, 1 - tail], axis=0)
    return scores + scale * low, scores + scale * high


def interval(score: float, replicates: np.ndarray, n: int, subset: int, *, level: float = 0.95) -> Interval:
    """Return the interval of one score; arguments as for `interval_ends`."""
    low, high = interval_ends(np.asarray(score), replicates, n, subset, level=level)
    return Interval(low=float(low), high=float(high), level=level, draws=len(replicates), subset=subset)
