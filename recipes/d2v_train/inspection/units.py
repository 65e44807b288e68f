"""Hidden units that are selective for one concept, and those that are so in several modalities.

A unit's concept is chosen on one half of the items, and how well the unit tells it from all others is measured on the
other half, as the area under the ROC curve (AUC): .5 is chance, 1 is perfect. A unit is selective in a modality if its
AUC reaches a threshold and its test against chance survives Benjamini and Hochberg's correction over all units. It is
shared by modalities if it is selective for the same concept in each of them.

Some units agree by chance. How many is found by renaming the concepts of all modalities but the first at random: the
units, their items and their AUC stay, only which concept corresponds to which is lost.

Legend: N items, U units, C concepts, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy.stats import norm, rankdata


DEFAULT_THRESHOLD = 0.75
DEFAULT_LEVEL = 0.05
DEFAULT_PERMUTATIONS = 999
DOMINANCE_BINS = 20


@dataclass
class Selectivity:
    """The best concept of every unit in one modality.

    Attributes:
        concept: (U,) concept that is chosen on the first half.
        auc: (U,) its AUC on the second half.
        p: (U,) one-sided p-value of that AUC (Mann and Whitney, with ties).
        selective: (U,) whether the unit is selective.
    """

    concept: np.ndarray
    auc: np.ndarray
    p: np.ndarray
    selective: np.ndarray


@dataclass
class SharedUnits:
    """Units that are selective for the same concept in all of several modalities, against chance.

    Attributes:
        modalities: Names of the modalities.
        units: Numbers of the units, the most selective one first (by the smallest AUC of its modalities).
        expected: Mean number under renamed concepts.
        upper: 95th percentile of that number.
        p: (1 + permutations with at least as many) / (1 + permutations).
        permutations: Number of permutations.
    """

    modalities: list[str]
    units: list[int]
    expected: float
    upper: float
    p: float
    permutations: int

    @property
    def count(self) -> int:
        """Number of shared units."""
        return len(self.units)


@dataclass
class UnitReport:
    """What `find_shared_units` finds.

    Attributes:
        selectivity: By modality.
        shared: Every pair of modalities, and all of them if there are more than two.
        threshold: Smallest AUC of a selective unit.
        level: Level of the correction.
        dominance: By modality, how many units have what share of their energy in it: counts of `DOMINANCE_BINS` bins
            from 0 to 1.
    """

    selectivity: dict[str, Selectivity]
    shared: list[SharedUnits]
    threshold: float
    level: float
    dominance: dict[str, list[int]] = field(default_factory=dict)


def concept_auc(activations: np.ndarray, concepts: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how well every unit tells every concept from all others.

    Args:
        activations: (N, U).
        concepts: (N,) from 0 to C - 1.
        number: C.

    Returns:
        AUC (C, U), and its one-sided p-value (C, U) by the normal approximation with correction for ties and
        continuity. Concepts without items have AUC .5 and p 1.

    Raises:
        ValueError: If shapes do not match, or a concept is out of range.
    """
    activations, concepts = np.asarray(activations), np.asarray(concepts)
    if activations.ndim != 2 or len(activations) != len(concepts):
        raise ValueError(f"Activations have shape {activations.shape}, and there are {len(concepts)} concepts.")
    if len(concepts) and not 0 <= concepts.min() <= concepts.max() < number:
        raise ValueError(f"Concepts must be from 0 to {number - 1}; got {concepts.min()} to {concepts.max()}.")
    total = len(concepts)
    ranks = rankdata(activations, axis=0)
    member = np.zeros((number, total))
    member[concepts, np.arange(total)] = 1.0
    inside = member.sum(axis=1)[:, None]
    outside = total - inside
    wins = member @ ranks - inside * (inside + 1) / 2  # Mann and Whitney's U
    pairs = np.maximum(inside * outside, 1)
    auc = np.where(inside * outside > 0, wins / pairs, 0.5)
    spread = np.sqrt(
        inside * outside / 12 * np.maximum(total + 1 - _ties(activations) / max(total * (total - 1), 1), 0)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (wins - inside * outside / 2 - 0.5) / spread
    return auc, np.where(spread > 0, norm.sf(z), 1.0)


def _ties(activations: np.ndarray) -> np.ndarray:
    """Return the sum of t^3 - t over the groups of t equal values of every unit, (U,)."""
    ordered = np.sort(activations, axis=0)
    # Sums over equal values, without a loop: average ranks differ from ordinal ones only inside a group of ties.
    first = rankdata(ordered, method="min", axis=0)
    last = rankdata(ordered, method="max", axis=0)
    sizes = last - first + 1
    return (sizes.astype(np.float64) ** 2 - 1).sum(axis=0)


def benjamini_hochberg(p: np.ndarray, level: float = DEFAULT_LEVEL) -> np.ndarray:
    """Return which of the p-values (U,) are significant at a false discovery rate of `level`."""
    p = np.asarray(p, dtype=np.float64)
    if not len(p):
        return np.zeros(0, dtype=bool)
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= level * np.arange(1, len(p) + 1) / len(p))
    return p <= ordered[below[-1]] if len(below) else np.zeros(len(p), dtype=bool)


def selectivity(
    chosen_on: tuple[np.ndarray, np.ndarray],
    measured_on: tuple[np.ndarray, np.ndarray],
    number: int,
    threshold: float = DEFAULT_THRESHOLD,
    level: float = DEFAULT_LEVEL,
) -> Selectivity:
    """Choose the concept of every unit on some items, and measure on others how well the unit tells it.

    Args:
        chosen_on: Activations (N, U) and concepts (N,) that the concept is chosen on.
        measured_on: Those of other items, that it is measured on.
        number: C.
        threshold: Smallest AUC of a selective unit.
        level: False discovery rate over the units.
    """
    concept = concept_auc(*chosen_on, number)[0].argmax(axis=0)
    auc, p = concept_auc(*measured_on, number)
    units = np.arange(auc.shape[1])
    auc, p = auc[concept, units], p[concept, units]
    return Selectivity(concept, auc, p, (auc >= threshold) & benjamini_hochberg(p, level))


def shared_units(
    found: dict[str, Selectivity],
    modalities: Sequence[str],
    number: int,
    permutations: int = DEFAULT_PERMUTATIONS,
    seed: int = 0,
) -> SharedUnits:
    """Find the units that are selective for the same concept in all of the modalities, and how many chance gives.

    Args:
        found: Selectivity by modality.
        modalities: Two or more of its keys.
        number: C.
        permutations: Number of times that the concepts of all modalities but the first are renamed.
        seed: Seed of the permutations.

    Raises:
        ValueError: If fewer than two modalities are given.
    """
    if len(modalities) < 2:
        raise ValueError("Units are shared by two or more modalities.")
    generator = np.random.default_rng(seed)
    parts = [found[name] for name in modalities]
    candidates = np.flatnonzero(np.logical_and.reduce([part.selective for part in parts]))
    concepts = np.stack([part.concept[candidates] for part in parts])
    agree = (concepts == concepts[0]).all(axis=0)
    weakest = np.min([part.auc[candidates] for part in parts], axis=0)
    order = np.argsort(-weakest[agree], kind="stable")
    counts = np.empty(permutations)
    for draw in range(permutations):
        renamed = [generator.permutation(number)[row] for row in concepts[1:]]
        counts[draw] = (np.stack(renamed) == concepts[0]).all(axis=0).sum()
    return SharedUnits(
        modalities=list(modalities),
        units=candidates[agree][order].tolist(),
        expected=float(counts.mean()) if permutations else 0.0,
        upper=float(np.quantile(counts, 0.95)) if permutations else 0.0,
        p=float((1 + (counts >= agree.sum()).sum()) / (1 + permutations)),
        permutations=permutations,
    )


def find_shared_units(
    chosen_on: dict[str, tuple[np.ndarray, np.ndarray]],
    measured_on: dict[str, tuple[np.ndarray, np.ndarray]],
    number: int,
    threshold: float = DEFAULT_THRESHOLD,
    level: float = DEFAULT_LEVEL,
    permutations: int = DEFAULT_PERMUTATIONS,
    seed: int = 0,
) -> UnitReport:
    """Measure selectivity in every modality, and find the units that modalities share.

    Args:
        chosen_on: By modality, activations (N, U) and concepts (N,) that concepts are chosen on.
        measured_on: The same of other items.
        number: C.
        threshold, level: As for `selectivity`.
        permutations, seed: As for `shared_units`.
    """
    found = {name: selectivity(chosen_on[name], measured_on[name], number, threshold, level) for name in chosen_on}
    names = list(found)
    groups = [*combinations(names, 2), *([tuple(names)] if len(names) > 2 else [])]
    shared = [shared_units(found, group, number, permutations, seed) for group in groups]
    activations = {name: measured_on[name][0] for name in names}
    return UnitReport(found, shared, threshold, level, dominance_histogram(activations))


def dominance(activations: dict[str, np.ndarray]) -> np.ndarray:
    """Return the share of every unit's energy that is in each modality, (M, U): columns sum up to 1.

    The energy of a unit in a modality is its mean square over the items. A unit that is silent everywhere has 1 / M.
    """
    energy = np.stack([np.square(values, dtype=np.float64).mean(axis=0) for values in activations.values()])
    total = energy.sum(axis=0)
    return np.where(total > 0, energy / np.where(total > 0, total, 1.0), 1 / len(activations))


def dominance_histogram(activations: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Return, by modality, how many units have what share of their energy in it, in `DOMINANCE_BINS` equal bins."""
    edges = np.linspace(0, 1, DOMINANCE_BINS + 1)
    shares = dominance(activations)
    return {name: np.histogram(row, edges)[0].tolist() for name, row in zip(activations, shares, strict=True)}


def top_items(activations: np.ndarray, unit: int, most: int = 5) -> list[int]:
    """Return the numbers of the items that a unit responds to most, the strongest first."""
    return np.argsort(-activations[:, unit], kind="stable")[:most].tolist()
