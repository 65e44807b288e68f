"""Retrieval of concepts of one modality from the other, for all layer pairs.

`MapRetrieval` learns a ridge map on other concepts and finds each held-out concept among those of its fold.
`DirectRetrieval` uses no map: cosine after removing the mean of each modality. With unpaired training nothing but the
shared weights fixes the rotation of a space, so that is the test of sharing and is reported apart.

Every score is the expectation over random orders of ties, so features without information score chance.

Legend: n concepts, m candidates, LA and LB layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from d2v_train.alignment.features import Layers, paired_layers, unit_rows


STATISTICS = ("percentile", "top1", "top5")
"""Mean percentile of the right concept (1 is best, chance is .5), and its share among the first one and five."""


def rank_credits(better: np.ndarray, ties: np.ndarray, m: int) -> np.ndarray:
    """Return the percentile, top-1 and top-5 credit of a right candidate.

    Args:
        better: Number of candidates above it, any shape.
        ties: Number of other candidates that are as near.
        m: Number of candidates.

    Returns:
        (3, *shape), in the order of `STATISTICS`.
    """
    percentile = 1 - (better + ties / 2) / max(m - 1, 1)
    return np.stack([percentile, *(np.clip((first - better) / (ties + 1), 0, 1) for first in (1, 5))])


def chance(candidates: Sequence[int]) -> dict[str, float]:
    """Return what each statistic is by chance, for queries with these numbers of candidates."""
    counts = np.asarray(candidates, dtype=np.float64)
    return {
        "percentile": 0.5,
        "top1": float(np.mean(1 / counts)),
        "top5": float(np.mean(np.minimum(5 / counts, 1))),
    }


def checked_statistic(statistic: str) -> int:
    """Return the position of a statistic in `STATISTICS`."""
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r} is unknown; choose from {', '.join(STATISTICS)}.")
    return STATISTICS.index(statistic)


class MapRetrieval:
    """Retrieval of held-out concepts after a linear map from the first to the second modality.

    The map is ridge regression on the concepts of the other folds. Its penalty is fixed, relative to the mean squared
    norm of the features, so nothing is chosen on held-out concepts.

    Args:
        a, b: Features of the first and second modality, per layer.
        folds: Number of folds of concepts; at most n.
        ridge: Penalty divided by the mean squared norm of the training features.
        statistic: Which of `STATISTICS` is the score.
        seed: Of the folds.
    """

    name = "retrieval"
    maximum = 1.0

    def __init__(
        self,
        a: Layers,
        b: Layers,
        *,
        folds: int = 5,
        ridge: float = 1.0,
        statistic: str = "percentile",
        seed: int = 0,
    ):
        self.first, self.second = paired_layers(a, b)
        self.n, self.shape = len(self.first[0]), (len(self.first), len(self.second))
        if not 2 <= folds <= self.n // 2:
            raise ValueError(
                f"folds = {folds} of {self.n} concepts; choose from 2 to {self.n // 2}, so that every fold holds two "
                "candidates."
            )
        if ridge <= 0:
            raise ValueError(f"ridge = {ridge}; the penalty must be positive.")
        self.settings = {"folds": folds, "ridge": ridge, "statistic": statistic}
        self.seed = seed
        self.column = checked_statistic(statistic)
        fold_of = np.random.default_rng(seed).permutation(self.n) % folds
        self.parts = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(folds)]
        # (LA * held out, training) per fold: predictions are these times the features of the second modality.
        self.hats = [
            np.concatenate([_hat(matrix, train, test, ridge) for matrix in self.first]).astype(np.float32)
            for train, test in self.parts
        ]
        self.grams = np.stack([matrix @ matrix.T for matrix in self.second]).astype(np.float32)

    def scores(self) -> np.ndarray:
        """Return the score of each layer pair: (LA, LB)."""
        return self.permuted(np.arange(self.n))

    def permuted(self, order: np.ndarray) -> np.ndarray:
        """Return the scores when concept i of the first modality is paired with concept `order[i]` of the second."""
        return self.statistics(order)[self.column]

    def subsets(self, chosen: np.ndarray) -> np.ndarray:
        """Return the scores of subsets of the concepts alone, with folds and maps of their own: (R, LA, LB).

        Args:
            chosen: (R, m) indices of concepts, without repetition within a row.
        """
        return np.stack(
            [
                MapRetrieval(
                    *([matrix[part] for matrix in side] for side in (self.first, self.second)),
                    **self.settings,
                    seed=self.seed,
                ).scores()
                for part in chosen
            ]
        )

    def statistics(self, order: np.ndarray | None = None) -> np.ndarray:
        """Return all three statistics of each layer pair: (3, LA, LB), in the order of `STATISTICS`."""
        order = np.arange(self.n) if order is None else order
        total = np.zeros((3, *self.shape))
        for (train, test), hat in zip(self.parts, self.hats, strict=True):
            candidates = _candidate_products(self.grams, order[train], order[test])
            similarities = (hat @ candidates).reshape(*self.shape[::-1], len(test), len(test))
            right = np.diagonal(similarities, axis1=2, axis2=3)[..., None]
            better = np.count_nonzero(similarities > right, axis=-1)
            ties = np.count_nonzero(similarities == right, axis=-1) - 1
            total += rank_credits(better, ties, len(test)).sum(axis=-1).transpose(0, 2, 1)
        return total / self.n

    def chance(self) -> dict[str, float]:
        """Return what each statistic is by chance."""
        return chance([len(test) for _, test in self.parts for _ in test])


def _hat(matrix: np.ndarray, train: np.ndarray, test: np.ndarray, ridge: float) -> np.ndarray:
    """Weights of the training concepts in the predictions of the held-out ones: (held out, training)."""
    mean = matrix[train].mean(axis=0)
    known, new = matrix[train] - mean, matrix[test] - mean
    kernel = known @ known.T
    penalty = ridge * np.trace(kernel) / len(train)
    if penalty == 0:
        return np.zeros((len(test), len(train)))
    return np.linalg.solve(kernel + penalty * np.eye(len(train)), known @ new.T).T


def _candidate_products(grams: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Inner products of training concepts and held-out candidates of unit norm: (layers, training, held out).

    Candidates are centred on the mean of the training concepts. As all concepts together have mean zero, that mean is
    minus the sum of the held-out ones over the number of training concepts.
    """
    across, within = grams[:, train[:, None], test], grams[:, test[:, None], test]
    squares = np.diagonal(within, axis1=1, axis2=2) + 2 * within.sum(axis=2) / len(train)
    squares = squares + within.sum(axis=(1, 2))[:, None] / len(train) ** 2
    products = across + across.sum(axis=2, keepdims=True) / len(train)
    norms = np.sqrt(np.maximum(squares, 0))[:, None]
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


class DirectRetrieval:
    """Retrieval by cosine between the modalities, without a map.

    Args:
        a, b: Features of the first and second modality, per layer, all of one width.
        statistic: Which of `STATISTICS` is the score.
    """

    name = "direct"
    maximum = 1.0

    def __init__(self, a: Layers, b: Layers, *, statistic: str = "percentile"):
        self.first, self.second = paired_layers(a, b)
        widths = {matrix.shape[1] for matrix in (*self.first, *self.second)}
        if len(widths) > 1:
            raise ValueError(
                f"The layers have {', '.join(map(str, sorted(widths)))} features. Cosines between modalities need the "
                "same space: compare layers of one width, or use retrieval, which learns a map."
            )
        self.n, self.shape = len(self.first[0]), (len(self.first), len(self.second))
        self.settings, self.column = {"statistic": statistic}, checked_statistic(statistic)

    def _similarities(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Both layers and the (n, n) cosines between them, one layer pair after the other."""
        for i, first in enumerate(self.first):
            for j, second in enumerate(self.second):
                yield i, j, np.round(unit_rows(first) @ unit_rows(second).T, 12)

    @cached_property
    def credits(self) -> np.ndarray:
        """Credit of every candidate as the right one of every query: (LA, LB, n, n)."""
        credits = np.empty((*self.shape, self.n, self.n), dtype=np.float32)
        for i, j, similarities in self._similarities():
            upto, below = (rankdata(similarities, method=method, axis=1) for method in ("max", "min"))
            credits[i, j] = rank_credits(self.n - upto, upto - below, self.n)[self.column]
        return credits

    def scores(self) -> np.ndarray:
        """Return the score of each layer pair: (LA, LB)."""
        return self.permuted(np.arange(self.n))

    def permuted(self, order: np.ndarray) -> np.ndarray:
        """Return the scores when concept i of the first modality is paired with concept `order[i]` of the second."""
        return self.credits[:, :, np.arange(self.n), order].mean(axis=-1, dtype=np.float64)

    def subsets(self, chosen: np.ndarray) -> np.ndarray:
        """Return the scores of subsets of the concepts alone: (R, LA, LB).

        Args:
            chosen: (R, m) indices of concepts, without repetition within a row.
        """
        return self._subset_statistics(chosen)[self.column]

    def statistics(self) -> np.ndarray:
        """Return all three statistics of each layer pair: (3, LA, LB), in the order of `STATISTICS`."""
        return self._subset_statistics(np.arange(self.n)[None])[:, 0]

    def _subset_statistics(self, chosen: np.ndarray) -> np.ndarray:
        weights = np.zeros((len(chosen), self.n), dtype=np.float32)
        np.put_along_axis(weights, chosen, 1, axis=1)
        m = chosen.shape[1]
        result = np.empty((3, len(chosen), *self.shape))
        for i, j, similarities in self._similarities():
            right = np.diagonal(similarities)[:, None]
            better = weights @ (similarities > right).astype(np.float32).T
            ties = weights @ (similarities == right).astype(np.float32).T - weights
            result[:, :, i, j] = (rank_credits(better, ties, m) * weights).sum(axis=-1) / m
        return result

    def chance(self) -> dict[str, float]:
        """Return what each statistic is by chance."""
        return chance([self.n])
