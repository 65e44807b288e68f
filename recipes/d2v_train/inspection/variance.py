"""Exact decomposition of the variance of token states into modality, position, concept and residual.

The terms are those of a linear model of the states, with one column per level:

| term          | columns                       | meaning                                                             |
|---------------|-------------------------------|---------------------------------------------------------------------|
| `modality`    | one per modality              | what tells pictures from speech from text                           |
| `position`    | one per modality and position | where a token lies in its input                                     |
| `concept`     | one per concept               | what all modalities of a concept have in common                     |
| `own_concept` | one per modality and concept  | what tells concepts apart in one modality, and differs from another |
| `residual`    |                               | everything else: items, and tokens within them                      |

The sum of squares of a term is what its columns explain in addition to those that are already there. It depends on the
order of terms, unless the design is balanced. An order is admissible if `modality` comes before `position`, and
`modality` and `concept` before `own_concept`, which contain them; there are five. The result is their mean (the value
of Shapley and Owen under precedence), so that no term is preferred, or that of one stated order (type I). In either
case the shares sum up to 1 exactly.

The concepts of two modalities that have nothing in common still share half of their variance by construction: the
column of a concept fits the mean of both. Therefore the chance level of `concept`, where the concepts of all
modalities but the first are renamed at random, belongs beside its share.

Legend: N items, T tokens, D width, P columns of positions, C concepts, M modalities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import numpy as np


TERMS = ("modality", "position", "concept", "own_concept")
PRECEDES = (("modality", "position"), ("modality", "own_concept"), ("concept", "own_concept"))
ORDERS = tuple(
    order
    for order in permutations(TERMS)
    if all(order.index(first) < order.index(second) for first, second in PRECEDES)
)
"""The admissible orders of terms."""


@dataclass
class Shares:
    """Shares of the variance of one layer; the five of them sum up to 1.

    Attributes:
        modality, position, concept, own_concept, residual: See the table of this module.
        concept_chance: Mean share of `concept` under renamed concepts, None without permutations.
        concept_upper: Its 95th percentile.
        concept_p: (1 + permutations with at least as large a share) / (1 + permutations).
    """

    modality: float
    position: float
    concept: float
    own_concept: float
    residual: float
    concept_chance: float | None = None
    concept_upper: float | None = None
    concept_p: float | None = None


@dataclass
class TokenSums:
    """Sums over the tokens of items, all that the decomposition needs: memory does not grow with the tokens.

    Args:
        positions: Most positions that are told apart; all later ones count as the last.

    Attributes:
        modalities: Number of the modality of every item.
        concepts: Number of the concept of every item.
    """

    positions: int = 512
    modalities: list[int] = field(default_factory=list)
    concepts: list[int] = field(default_factory=list)
    _sums: list[np.ndarray] = field(default_factory=list)
    _counts: list[np.ndarray] = field(default_factory=list)
    _squares: list[float] = field(default_factory=list)
    _cells: dict[int, np.ndarray] = field(default_factory=dict)
    _origin: np.ndarray | None = None

    def add(self, states: np.ndarray, modality: int, concept: int) -> None:
        """Add an item.

        Args:
            states: (T, D) states of its tokens, in the order of their positions.
            modality: Number of its modality.
            concept: Number of its concept.

        Raises:
            ValueError: If states are not finite, or an item has no tokens or another width.
        """
        states = np.asarray(states, dtype=np.float64)
        if states.ndim != 2 or not len(states) or not np.isfinite(states).all():
            raise ValueError(f"States must be finite numbers of shape (tokens, width); got shape {states.shape}.")
        if self._origin is None:
            # Sums of squares around a point near the mean do not lose digits.
            self._origin = states.mean(axis=0)
        if states.shape[1] != len(self._origin):
            raise ValueError(f"States of width {states.shape[1]} came after states of width {len(self._origin)}.")
        states = states - self._origin
        places = np.minimum(np.arange(len(states)), self.positions - 1)
        cells = self._cells.setdefault(modality, np.zeros((self.positions, len(self._origin))))
        np.add.at(cells, places, states)
        self.modalities.append(modality)
        self.concepts.append(concept)
        self._sums.append(states.sum(axis=0))
        self._counts.append(np.bincount(places, minlength=self.positions).astype(np.float64))
        self._squares.append(float(np.square(states).sum()))

    def design(self, weigh: bool = True) -> Design:
        """Return what shares are computed from.

        Args:
            weigh: Weigh the tokens of every modality so that all modalities have the same weight, whatever their
                number of items and tokens. Otherwise every token counts the same.

        Raises:
            ValueError: If there are no items.
        """
        if not self.modalities:
            raise ValueError("There are no items to decompose the variance of.")
        modalities, concepts = np.asarray(self.modalities), np.asarray(self.concepts)
        counts = np.stack(self._counts)
        tokens = counts.sum(axis=1)
        weights = np.ones(len(modalities))
        if weigh:
            for modality in np.unique(modalities):
                rows = modalities == modality
                weights[rows] = tokens.sum() / (len(np.unique(modalities)) * tokens[rows].sum())
        histogram, cell_sums = [], []
        for modality in np.unique(modalities):
            rows = modalities == modality
            used = counts[rows].any(axis=0)
            histogram.append(np.where(rows[:, None], counts[:, used] * weights[:, None], 0.0))
            cell_sums.append(self._cells[modality][used] * weights[rows][0])
        return Design(
            modalities=modalities,
            concepts=concepts,
            weights=tokens * weights,
            histogram=np.concatenate(histogram, axis=1),
            sums=np.stack(self._sums) * weights[:, None],
            cell_sums=np.concatenate(cell_sums),
            squares=float(np.dot(self._squares, weights)),
        )


@dataclass
class Design:
    """The weighted sums of a set of items.

    Attributes:
        modalities, concepts: (N,).
        weights: (N,) weight of all tokens of an item.
        histogram: (N, P) weight of its tokens at every position of every modality.
        sums: (N, D) weighted sums of their states.
        cell_sums: (P, D) weighted sums of the states at every position.
        squares: Weighted sum of squares of all states.
    """

    modalities: np.ndarray
    concepts: np.ndarray
    weights: np.ndarray
    histogram: np.ndarray
    sums: np.ndarray
    cell_sums: np.ndarray
    squares: float

    @cached_property
    def total(self) -> float:
        """Sum of squares around the mean of all tokens."""
        return self.squares - self._mean_part

    @cached_property
    def _bases(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By base, for columns that no token has two of: weight (K,), sums (K, D), weight of each item (N, K)."""
        found = np.unique(self.modalities)
        member = (self.modalities[:, None] == found).astype(np.float64)
        of_modality = member * self.weights[:, None]
        return {
            "mean": (self.weights.sum()[None], self.sums.sum(axis=0)[None], self.weights[:, None]),
            "modality": (of_modality.sum(axis=0), member.T @ self.sums, of_modality),
            "position": (self.histogram.sum(axis=0), self.cell_sums, self.histogram),
        }

    def explained(self, terms: Iterable[str], concepts: np.ndarray | None = None) -> float:
        """Return the sum of squares around the mean that the columns of some terms explain together.

        Args:
            terms: Some of `TERMS`.
            concepts: (N,) other concepts than those of the items.
        """
        terms = set(terms)
        concepts = self.concepts if concepts is None else concepts
        # Columns of a modality and concept contain those of the modality.
        modality = "modality" if terms & {"modality", "own_concept"} else "mean"
        weight, sums, by_item = self._bases["position" if "position" in terms else modality]
        value = float((np.square(sums).sum(axis=1) / weight).sum()) - self._mean_part
        if "own_concept" in terms:
            levels = np.unique(np.stack([self.modalities, concepts]), axis=1, return_inverse=True)[1].ravel()
        elif "concept" in terms:
            levels = np.unique(concepts, return_inverse=True)[1].ravel()
        else:
            return value
        member = np.zeros((len(levels), levels.max() + 1))
        member[np.arange(len(levels)), levels] = 1.0
        cross = member.T @ by_item  # columns of the concept by columns of the base
        gram = np.diag(member.T @ self.weights) - (cross / weight) @ cross.T
        rest = member.T @ self.sums - (cross / weight) @ sums
        return value + _projected(gram, rest)

    @cached_property
    def _mean_part(self) -> float:
        return float(np.square(self.sums.sum(axis=0)).sum()) / self.weights.sum()

    def shares(self, order: Sequence[str] | None = None, concepts: np.ndarray | None = None) -> dict[str, float]:
        """Return the share of every term, and of the residual.

        Args:
            order: An admissible order of `TERMS` for sums of squares of type I; None for the mean of all orders.
            concepts: (N,) other concepts than those of the items.

        Raises:
            ValueError: If the order is not admissible.
        """
        if order is not None and tuple(order) not in ORDERS:
            raise ValueError(f"The order {list(order)} is not admissible; choose one of {[list(o) for o in ORDERS]}.")
        orders = ORDERS if order is None else (tuple(order),)
        if self.total <= 0:
            return {**dict.fromkeys(TERMS, 0.0), "residual": 1.0}
        known: dict[frozenset[str], float] = {frozenset(): 0.0}
        found = dict.fromkeys(TERMS, 0.0)
        for each in orders:
            present: frozenset[str] = frozenset()
            for term in each:
                following = present | {term}
                if following not in known:
                    known[following] = self.explained(following, concepts)
                found[term] += (known[following] - known[present]) / len(orders) / self.total
                present = following
        found["residual"] = 1.0 - sum(found.values())
        return found

    def decompose(self, order: Sequence[str] | None = None, chance: int = 99, seed: int = 0) -> Shares:
        """Return the shares, with the chance level of the concept that modalities have in common.

        Args:
            order: As for `shares`.
            chance: Number of times that the concepts of all modalities but the first are renamed; 0 for no chance
                level.
            seed: Seed of the new names.
        """
        shares = self.shares(order)
        if not chance or len(np.unique(self.modalities)) < 2:
            return Shares(**shares)
        generator = np.random.default_rng(seed)
        levels, own = np.unique(self.concepts, return_inverse=True)
        drawn = np.empty(chance)
        for draw in range(chance):
            renamed = own.copy()
            for modality in np.unique(self.modalities)[1:]:
                rows = self.modalities == modality
                renamed[rows] = generator.permutation(len(levels))[own[rows]]
            drawn[draw] = self.shares(order, renamed)["concept"]
        return Shares(
            **shares,
            concept_chance=float(drawn.mean()),
            concept_upper=float(np.quantile(drawn, 0.95)),
            concept_p=float((1 + (drawn >= shares["concept"]).sum()) / (1 + chance)),
        )


def _projected(gram: np.ndarray, right: np.ndarray) -> float:
    """Return trace(right' gram^+ right): the sum of squares that columns of this Gram matrix explain."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > values.max(initial=0.0) * len(values) * 1e-10
    return float((np.square(vectors[:, kept].T @ right).sum(axis=1) / values[kept]).sum())
