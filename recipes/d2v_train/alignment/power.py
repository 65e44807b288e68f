"""Power over the number of concepts: how often random subsets of a pair are found to be aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2v_train.alignment.features import Layers, as_layers
from d2v_train.alignment.layers import null_scores, prepare
from d2v_train.alignment.nulls import draw_permutations, p_values


POWER_SIZES = (10, 14, 18, 30, 60, 100)


@dataclass(frozen=True)
class PowerPoint:
    """Power with a number of concepts.

    Attributes:
        concepts: Number of concepts of a subset.
        power: Share of the subsets with p below alpha, corrected for the choice of the layer pair.
        score: Mean of the largest score over layer pairs.
        null: Mean of the largest score of the permutations.
        subsets: Number of subsets.
    """

    concepts: int
    power: float
    score: float
    null: float
    subsets: int


def power_curve(
    measure: str,
    a: Layers,
    b: Layers,
    *,
    sizes: Sequence[int] = POWER_SIZES,
    subsets: int = 20,
    permutations: int = 199,
    alpha: float = 0.05,
    seed: int = 0,
    **settings: Any,
) -> list[PowerPoint]:
    """Measure random subsets of the concepts, as if each were a study of its own.

    Args:
        measure: Name in `layers.MEASURES`.
        a, b: Features of the first and second modality, per layer.
        sizes: Numbers of concepts; those above n are left out.
        subsets: Number of subsets of each size.
        permutations: K of each subset.
        alpha: Level.
        seed: Of subsets and permutations.
        **settings: Of the measure. Without `k`, a measure of neighbours takes `neighbours_for` the size.
    """
    first, second = as_layers(a), as_layers(b)
    random = np.random.default_rng(seed)
    points = []
    for size in (size for size in sizes if size <= len(first[0])):
        found, scores, nulls = [], [], []
        for index in range(subsets):
            chosen = random.choice(len(first[0]), size, replace=False)
            statistic = prepare(measure, [x[chosen] for x in first], [y[chosen] for y in second], **settings)
            null = null_scores(statistic, draw_permutations(size, permutations, seed=seed + index)).max(axis=(1, 2))
            score = statistic.scores().max()
            found.append(p_values(np.asarray(score), null) < alpha)
            scores.append(score)
            nulls.append(null.mean())
        points.append(PowerPoint(size, float(np.mean(found)), float(np.mean(scores)), float(np.mean(nulls)), subsets))
    return points
