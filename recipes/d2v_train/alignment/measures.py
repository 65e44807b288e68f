"""Measures of one layer pair, as functions. `layers` computes the same for all layer pairs at once.

All take two (n, d) matrices whose row i is concept i, and centre them. Larger is more alike; each function says what
unrelated modalities score. The biased CKA is not offered: it is large for unrelated modalities when n is small.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from d2v_train.alignment.geometry import RSA_DEGREE, KernelAlignment, RankedDistances
from d2v_train.alignment.matching import BlindMatching, blind_matching
from d2v_train.alignment.neighbours import CycleNeighbours, MutualNeighbours
from d2v_train.alignment.retrieval import STATISTICS, DirectRetrieval, MapRetrieval, modality_gap


__all__ = [
    "BlindMatching",
    "blind_matching",
    "cycle_knn",
    "debiased_cka",
    "direct_retrieval",
    "map_retrieval",
    "modality_gap",
    "mutual_knn",
    "partial_cka",
    "partial_rsa",
    "rsa",
    "rsa_with_distances",
]


def mutual_knn(a: np.ndarray, b: np.ndarray, k: int | None = None, seed: int = 0) -> float:
    """Return the mean share of common k nearest neighbours; k / (n - 1) for unrelated modalities."""
    return float(MutualNeighbours(a, b, k=k, seed=seed).scores()[0, 0])


def cycle_knn(a: np.ndarray, b: np.ndarray, k: int | None = None, seed: int = 0) -> float:
    """Return the share of concepts that are a neighbour in `a` of one of their neighbours in `b`."""
    return float(CycleNeighbours(a, b, k=k, seed=seed).scores()[0, 0])


def debiased_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Return the debiased linear CKA (U-statistic); 0 on average for unrelated modalities, so also below 0."""
    return float(KernelAlignment(a, b).scores()[0, 0])


def partial_cka(a: np.ndarray, b: np.ndarray, nuisances: Mapping[str, np.ndarray]) -> float:
    """Return the debiased linear CKA given (n, n) nuisance distances."""
    return float(KernelAlignment(a, b, nuisances=nuisances).scores()[0, 0])


def rsa(a: np.ndarray, b: np.ndarray, distance: str = "euclidean") -> float:
    """Return the Spearman correlation of distances; 0 on average for unrelated modalities."""
    return float(RankedDistances(a, b, distance=distance).scores()[0, 0])


def partial_rsa(a: np.ndarray, b: np.ndarray, nuisances: Mapping[str, np.ndarray], degree: int = RSA_DEGREE) -> float:
    """Return the Spearman correlation of Euclidean distances given (n, n) nuisance distances."""
    return float(RankedDistances(a, b, nuisances=nuisances, degree=degree).scores()[0, 0])


def rsa_with_distances(a: np.ndarray, distances: np.ndarray) -> float:
    """Return the Spearman correlation of the Euclidean distances of `a` with (n, n) distances."""
    upper = np.triu_indices(len(a), 1)
    return float(spearmanr(cdist(a, a)[upper], np.asarray(distances)[upper]).statistic)


def map_retrieval(
    a: np.ndarray, b: np.ndarray, *, folds: int = 5, ridge: float = 1.0, seed: int = 0
) -> dict[str, float]:
    """Return percentile, top-1 and top-5 of held-out concepts after a linear map from `a` to `b`."""
    statistics = MapRetrieval(a, b, folds=folds, ridge=ridge, seed=seed).statistics()
    return dict(zip(STATISTICS, statistics[:, 0, 0].tolist(), strict=True))


def direct_retrieval(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return percentile, top-1 and top-5 by cosine, without a map; both need the same features."""
    return dict(zip(STATISTICS, DirectRetrieval(a, b).statistics()[:, 0, 0].tolist(), strict=True))
