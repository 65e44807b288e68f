"""What shared units are for: concept probes lose accuracy when these units are silenced, more than for random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from d2v_train.inspection.activations import (
    ConceptItems,
    batches,
    evaluating,
    feed_forward_outputs,
    mean_over_tokens,
    silenced_units,
    token_weights,
)


RANDOM_SETS = 19
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
        model: `Data2VecModel`.
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
        probe.fit(states_without(model, train[name], [units[:0]], batch_size)[0], train[name].concepts)
        states = states_without(model, items, [units[:0], units, *sets], batch_size)
        intact, silenced, *random = (100.0 * probe.score(each, items.concepts) for each in states)
        p = (1 + sum(value <= silenced for value in random)) / (1 + draws)
        results[name] = Ablation(intact, silenced, random, p)
    return results


@torch.no_grad()
def states_without(
    model: nn.Module, items: ConceptItems, sets: Sequence[np.ndarray], batch_size: int = 32
) -> list[np.ndarray]:
    """Return the mean last state of the real tokens of every item, (N, D), without each of several sets of units.

    The front end, which has no such units, runs once: the shared blocks alone are repeated.
    """
    found: list[list[Tensor]] = [[] for _ in sets]
    calls: list[tuple[tuple, dict]] = []
    hook = model.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    try:
        with evaluating(model):
            for inputs in batches(model, items.items, batch_size):
                calls.clear()
                weights = token_weights(model, inputs, model(**inputs))
                args, kwargs = calls[0]
                for units, rows in zip(sets, found, strict=True):
                    with silenced_units(model, units):
                        rows.append(mean_over_tokens(model.encoder(*args, **kwargs), weights).float().cpu())
    finally:
        hook.remove()
    return [torch.cat(rows).numpy() for rows in found]


def _matching(units: np.ndarray, width: int, generator: np.random.Generator) -> np.ndarray:
    """Draw as many units of every block as `units` has there, from the others (from all where too few are left)."""
    drawn = []
    for block in np.unique(units // width):
        own = units[units // width == block] % width
        others = np.setdiff1d(np.arange(width), own)
        pool = others if len(others) >= len(own) else np.arange(width)
        drawn.append(block * width + generator.choice(pool, len(own), replace=False))
    return np.concatenate(drawn) if drawn else units[:0]
