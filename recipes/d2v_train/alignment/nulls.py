"""Permutation nulls over concepts: p-values, calibrated scores, and the correction for choosing the best layer pair.

Whole concepts are permuted, never their items: items of one concept are not exchangeable with those of another, and
permuting them would fake power. One permutation moves all layers at once, so the largest score over all layer pairs is
compared with the largest of each permutation (max statistic). Thresholds and p-values are those of Gröger, Wen and
Brbić (ICML 2026, arXiv 2602.14486).

Legend: n concepts, K permutations, LA and LB layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


MIN_PERMUTATIONS = 999
"""Fewest permutations of a result that is reported. Curves over n may use fewer."""


@dataclass(frozen=True)
class CalibratedScore:
    """A score beside its permutation null.

    Attributes:
        score: The score as measured.
        null_mean: Mean over the permutations.
        null_std: Standard deviation over the permutations.
        calibrated: (score - null_mean) / null_std, or None where the null has no spread.
        p_value: (1 + number of permutations with at least the score) / (K + 1).
        threshold: Order statistic ceil((1 - alpha)(K + 1)) of score and null together.
        above_threshold: (score - threshold) / (maximum - threshold), clipped to 0 and 1: 0 at level alpha under the
            null.
        alpha: Level of the threshold.
        permutations: K.
    """

    score: float
    null_mean: float
    null_std: float
    calibrated: float | None
    p_value: float
    threshold: float
    above_threshold: float
    alpha: float
    permutations: int


def draw_permutations(
    n: int, count: int = MIN_PERMUTATIONS, *, seed: int = 0, groups: Sequence | None = None
) -> np.ndarray:
    """Return random orders of concepts: (count, n).

    Args:
        n: Number of concepts.
        count: K.
        seed: Of the draws.
        groups: One label per concept; concepts are permuted within their group only. What the groups share (a
            category, a word) is then in the null as well, and only agreement beyond it counts.

    Raises:
        ValueError: If `groups` has another length, or no group has two concepts.
    """
    random = np.random.default_rng(seed)
    if groups is None:
        return np.stack([random.permutation(n) for _ in range(count)])
    members = _members(n, groups)
    orders = np.tile(np.arange(n), (count, 1))
    for order in orders:
        for group in members:
            order[group] = random.permutation(group)
    return orders


def smallest_p_value(n: int, count: int, groups: Sequence | None = None) -> float:
    """Return the smallest p-value that the null can give: by the number of draws, and by that of different orders.

    With four concepts there are 24 orders, so p cannot be below 1 / 24 whatever the scores are.
    """
    sizes = [n] if groups is None else [len(group) for group in _members(n, groups)]
    log_orders = sum(math.lgamma(size + 1) for size in sizes)
    return max(1 / (count + 1), math.exp(-log_orders))


def _members(n: int, groups: Sequence) -> list[np.ndarray]:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} group labels for {n} concepts; give one per concept.")
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    members = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    if max(len(group) for group in members) < 2:
        raise ValueError("Every concept is a group of its own, so nothing can be permuted; use larger groups.")
    return members


def calibrate(score: float, null: np.ndarray, *, alpha: float = 0.05, maximum: float = 1.0) -> CalibratedScore:
    """Compare a score with its null.

    Args:
        score: The score of the true order.
        null: (K,) scores of the permutations.
        alpha: Level of the threshold.
        maximum: Largest score that the measure can take.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha}; a level lies between 0 and 1.")
    count = len(null)
    spread = float(null.std(ddof=1)) if count > 1 else 0.0
    index = math.ceil((1 - alpha) * (count + 1)) - 1
    threshold = float(np.sort(np.append(null, score))[min(max(index, 0), count)])
    room = maximum - threshold
    return CalibratedScore(
        score=float(score),
        null_mean=float(null.mean()),
        null_std=spread,
        calibrated=float((score - null.mean()) / spread) if spread > 1e-12 else None,
        p_value=float(p_values(np.asarray(score), null)),
        threshold=threshold,
        above_threshold=float(np.clip((score - threshold) / room, 0, 1)) if room > 0 else 0.0,
        alpha=alpha,
        permutations=count,
    )


def p_values(scores: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return add-one p-values: (1 + number of null scores that are at least the score) / (K + 1).

    Args:
        scores: Any shape.
        null: (K, *shape), or (K,) for one null that all scores are compared with (the max statistic).
    """
    if null.ndim == 1:
        null = null.reshape(len(null), *[1] * scores.ndim)
    # Sums of another order differ by rounding; the same order of concepts must count as at least the score.
    return (1 + (null >= scores - 1e-12).sum(axis=0)) / (len(null) + 1)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979), by name.

    Valid whatever the dependence of the tests.
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(values, key=lambda name: values[name])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in values}
