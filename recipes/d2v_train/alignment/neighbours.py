"""Neighbour measures of all layer pairs: mutual and cycle k-nearest-neighbour overlap.

Neighbours are those of the largest cosine of centred features, without the concept itself. With features that are
centred and normalised already, both scores equal those of the platonic representation hypothesis (Huh et al. 2024,
arXiv 2405.07987).

Ties are broken at random, with different draws in the two modalities: word counts are full of ties, and breaking them
by position would give both modalities the same arbitrary neighbours.

Legend: n concepts, k neighbours, LA and LB layers.
"""

from __future__ import annotations

import numpy as np

from d2v_train.alignment.features import Layers, paired_layers, unit_rows


SIMILARITY_DECIMALS = 12
"""Cosines that differ by less are ties: rounding errors of a matrix product depend on the position of a row."""


def neighbours_for(n: int) -> int:
    """Return the number of neighbours that is fixed in advance: 3 up to 20 concepts, 10 above."""
    return 3 if n <= 20 else 10


def ranked_neighbours(matrix: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return for each concept all others, the nearest first: (n, n - 1) indices.

    Args:
        matrix: (n, d) centred features.
        random: Draws the order of ties.
    """
    n = len(matrix)
    unit = unit_rows(matrix)
    similarities = np.round(unit @ unit.T, SIMILARITY_DECIMALS)
    np.fill_diagonal(similarities, -np.inf)
    shuffled = random.permutation(n)
    order = np.argsort(-similarities[:, shuffled], axis=1, kind="stable")
    return shuffled[order[:, : n - 1]].astype(np.int32)


def nearest_within(ranked: np.ndarray, chosen: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest neighbours of each chosen concept among the chosen ones.

    Args:
        ranked: (layers, n, n - 1) as `ranked_neighbours`.
        chosen: (m,) indices of concepts, without repetition.
        k: Number of neighbours, below m.

    Returns:
        (layers, m, k) positions in `chosen`.
    """
    n = ranked.shape[1]
    position = np.full(n, -1)
    position[chosen] = np.arange(len(chosen))
    depth = min(n - 1, int(2 * k * n / len(chosen)) + 10)
    while True:
        candidates = position[ranked[:, chosen, :depth]]
        inside = candidates >= 0
        count = np.cumsum(inside, axis=-1)
        if depth == n - 1 or count[..., -1].min() >= k:
            return candidates[inside & (count <= k)].reshape(len(ranked), len(chosen), k)
        depth = n - 1


class _Neighbours:
    """What both measures share: the neighbour lists of every layer."""

    maximum = 1.0

    def __init__(self, a: Layers, b: Layers, *, k: int | None = None, seed: int = 0):
        first, second = paired_layers(a, b)
        self.n, self.shape = len(first[0]), (len(first), len(second))
        self.k = k = neighbours_for(self.n) if k is None else k
        self.settings = {"k": k}
        if not 1 <= k < self.n:
            raise ValueError(f"k = {k} neighbours of {self.n} concepts; k must lie between 1 and {self.n - 1}.")
        random_a, random_b = np.random.default_rng(seed).spawn(2)
        self.ranked_a = np.stack([ranked_neighbours(matrix, random_a) for matrix in first])
        self.ranked_b = np.stack([ranked_neighbours(matrix, random_b) for matrix in second])
        self.prepared = self._prepare(self.ranked_a[..., :k], self.ranked_b[..., :k])

    def scores(self) -> np.ndarray:
        """Return the score of each layer pair: (LA, LB)."""
        return self.permuted(np.arange(self.n))

    def permuted(self, order: np.ndarray) -> np.ndarray:
        """Return the scores when concept i of the first modality is paired with concept `order[i]` of the second."""
        return self._score(*self.prepared, order)

    def subsets(self, chosen: np.ndarray) -> np.ndarray:
        """Return the scores of subsets of the concepts alone, with neighbours among them: (R, LA, LB).

        Args:
            chosen: (R, m) indices of concepts, without repetition within a row.
        """
        if self.k >= chosen.shape[1]:
            raise ValueError(f"k = {self.k} neighbours of subsets of {chosen.shape[1]} concepts; lower k.")
        identity = np.arange(chosen.shape[1])
        sides = (self.ranked_a, self.ranked_b)
        return np.stack(
            [
                self._score(*self._prepare(*(nearest_within(ranked, part, self.k) for ranked in sides)), identity)
                for part in chosen
            ]
        )

    def _prepare(self, nearest_a: np.ndarray, nearest_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _score(self, nearest: np.ndarray, members: np.ndarray, order: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def membership(nearest: np.ndarray) -> np.ndarray:
    """Return (n * n, layers) of 0 and 1: whether concept j is among the neighbours of i, in row i * n + j."""
    layers, n, _ = nearest.shape
    members = np.zeros((n, n, layers), dtype=np.uint8)
    for layer in range(layers):
        members[np.arange(n)[:, None], nearest[layer], layer] = 1
    return members.reshape(n * n, layers)


class MutualNeighbours(_Neighbours):
    """Mutual kNN: mean share of the k nearest neighbours that a concept has in both modalities.

    Args:
        a, b: Features of the first and second modality, per layer.
        k: Number of neighbours, `neighbours_for(n)` by default. The expected score of unrelated modalities is
            k / (n - 1).
        seed: Of the order of ties.
    """

    name = "mutual_knn"

    def _prepare(self, nearest_a, nearest_b):
        return nearest_a, membership(nearest_b)

    def _score(self, nearest, members, order):
        layers, n, k = nearest.shape
        rows = order[:, None] * n + order[nearest]
        hits = members[rows.reshape(layers, n * k)]
        return hits.sum(axis=1, dtype=np.int64) / (n * k)


class CycleNeighbours(_Neighbours):
    """Cycle kNN: share of concepts that are a neighbour in the first modality of a neighbour in the second.

    Args:
        a, b, k, seed: As for `MutualNeighbours`.
    """

    name = "cycle_knn"

    def _prepare(self, nearest_a, nearest_b):
        return nearest_b, membership(nearest_a)

    def _score(self, nearest, members, order):
        layers, n, k = nearest.shape
        inverse = np.argsort(order)
        rows = inverse[nearest] * n + inverse[:, None]
        hits = members[rows.reshape(layers * n, k)].any(axis=1)
        return hits.reshape(layers, n, -1).mean(axis=1).T
