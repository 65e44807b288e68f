"""What shared units are for: concept probes lose accuracy when these units are silenced, more than for random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from d2v_train.inspection.activations import ConceptItems, feed_forward_outputs, pooled_states, silenced_units


RANDOM_SETS = 20
REGULARISATION = 0.03
"""scikit-learn's C of the probe, fixed: accuracies with and without units come from one fit."""


@dataclass
class Ablation:
    """Accuracy of a concept probe, in percent, in one modality.

    Attributes:
        intact: With all units.
        silenced: Without the units in question.
        random: Without as many random units of the same blocks, one value per draw.
        p: (1 + draws that lose at least as much) / (1 + draws).
    """

    intact: float
    silenced: float
    random: list[float]
    p: float


def ablate(
    model: nn.Module,
    train: dict[str, ConceptItems],
    test: dict[str, ConceptItems],
    units: Sequence[int],
    draws: int = RANDOM_SETS,
    seed: int = 0,
    batch_size: int = 32,
) -> dict[str, Ablation]:
    """Measure concept probes with and without some units.

    The probe, logistic regression on the mean of the last states, is fitted once, on the intact encoder: it shows what
    a reader of these features loses.

    Args:
        model: As for `feed_forward_outputs`.
        train, test: Items by modality; no item may be in both.
        units: Numbers of the units to silence.
        draws: Number of random sets. Each one has as many units of every block, none of those in question.
        seed: Seed of the draws.
        batch_size: Items per forward pass.

    Returns:
        Accuracies by modality.
    """
    units = np.asarray(sorted(units), dtype=np.int64)
    width = feed_forward_outputs(model)[0].in_features
    generator = np.random.default_rng(seed)
    sets = [_matching(units, width, generator) for _ in range(draws)]
    results = {}
    for name, items in test.items():
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=300))
        probe.fit(pooled_states(model, train[name], batch_size), train[name].concepts)
        accuracies = []
        for silent in (units[:0], units, *sets):
            with silenced_units(model, silent):
                accuracies.append(100.0 * probe.score(pooled_states(model, items, batch_size), items.concepts))
        intact, silenced, *random = accuracies
        p = (1 + sum(value <= silenced for value in random)) / (1 + draws)
        results[name] = Ablation(intact, silenced, random, p)
    return results


def _matching(units: np.ndarray, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw as many units of every block as `units` has there, from the others (from all where too few are left)."""
    drawn = []
    for block in np.unique(units // width):
        own = units[units // width == block] % width
        others = np.setdiff1d(np.arange(width), own)
        pool = others if len(others) >= len(own) else np.arange(width)
        drawn.append(block * width + generator.choice(pool, len(own), replace=False))
    return np.concatenate(drawn) if drawn else units[:0]
