"""Global measures of all layer pairs: debiased CKA and RSA, plain and given nuisance matrices.

Both are inner products of two vectors that hold one value per pair of concepts, so one matrix product scores all layer
pairs of a permutation. Only the debiased CKA (U-statistic, Song et al. 2012; the same as the unbiased distance
correlation of linear kernels) is offered: with few concepts the biased one is large for unrelated modalities.

Given nuisances, both vectors are replaced by what is left after a linear regression on those of the nuisances; under
the null the residuals of the second modality are permuted and regressed anew (Freedman and Lane 1983). For p-values,
permute within groups that are alike in the nuisances (`nuisance.alike_groups`).

Legend: n concepts, P = n (n - 1) / 2 pairs, LA and LB layers, q columns of nuisances.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from d2v_train.alignment.features import Layers, paired_layers, unit_rows


RSA_DEGREE = 3
"""Degree of the polynomial of a nuisance that partial RSA regresses on. Distances that a nuisance causes follow it
monotonically, not linearly: after a straight line, two modalities would still share the curve."""
ROUNDING = 1e-10
"""Norm below which a vector of values up to 1 is the rounding error of a constant layer."""
NOTHING_LEFT = 1e-12
"""Squared norm below which a vector of unit norm counts as explained entirely by the nuisances."""

SUBSETS_AT_ONCE = 250
"""Subsets that one matrix product scores; more need memory only."""


def u_centred(matrices: np.ndarray) -> np.ndarray:
    """Return symmetric matrices centred so that their inner product is an unbiased estimate (U-centring).

    Rows and columns sum to zero, the diagonal is zero (Székely and Rizzo 2014, definition 2).

    Args:
        matrices: (layers, n, n), symmetric; the diagonal is ignored. n is at least 4.
    """
    n = matrices.shape[-1]
    result = matrices.copy()
    diagonal = np.arange(n)
    result[:, diagonal, diagonal] = 0
    rows = result.sum(axis=-1)
    total = rows.sum(axis=-1)
    result -= (rows[:, :, None] + rows[:, None, :]) / (n - 2)
    result += total[:, None, None] / ((n - 1) * (n - 2))
    result[:, diagonal, diagonal] = 0
    return result


def ranked_pairs(distances: np.ndarray) -> np.ndarray:
    """Return a symmetric matrix whose distances are replaced by their ranks over all pairs, scaled to -1 to 1."""
    n = len(distances)
    upper = np.triu_indices(n, 1)
    ranks = rankdata(np.round(distances[upper], 12))
    result = np.zeros((n, n))
    result[upper] = (ranks - 1) / max(len(ranks) - 1, 1) * 2 - 1
    return result + result.T


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return rows of unit norm; rows that hold rounding errors alone, of values up to 1, become zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > ROUNDING)


class _PairVectors:
    """Correlation of vectors over pairs of concepts, for all layer pairs.

    Args:
        first, second: (LA, n, n) and (LB, n, n) symmetric matrices; `_centred` turns them into vectors over pairs.
        nuisances: Matrices of the same kind, may be empty.
    """

    maximum = 1.0

    def __init__(self, first: np.ndarray, second: np.ndarray, nuisances: list[np.ndarray]):
        self.n, self.shape = first.shape[-1], (len(first), len(second))
        given = np.stack(nuisances) if nuisances else np.zeros((0, self.n, self.n))
        self.matrices = [_scaled(matrices) for matrices in (first, second, given)]
        self.pairs = np.triu_indices(self.n, 1)
        left, right, given = (unit_vectors(self._centred(matrices)[:, *self.pairs]) for matrices in self.matrices)
        self.basis = _orthonormal(given)
        self.left, right = (_without(side, self.basis) for side in (left, right))
        square = np.zeros((self.n, self.n, len(right)))
        square[self.pairs] = right.T
        square[self.pairs[1], self.pairs[0]] = right.T
        self.right = square.reshape(self.n**2, len(right))

    @staticmethod
    def _centred(matrices: np.ndarray) -> np.ndarray:
        """Return the matrices centred such that the sum over pairs of the product of two is their covariance."""
        raise NotImplementedError

    @staticmethod
    def _covariance(products: np.ndarray, rows: tuple[np.ndarray, np.ndarray], m: int) -> np.ndarray:
        """Return the covariance of uncentred matrices over all ordered pairs of m concepts.

        Args:
            products: (R,) sums of the product of two matrices.
            rows: (R, n) sums over the rows of either.
            m: Number of concepts of a subset.
        """
        raise NotImplementedError

    def scores(self) -> np.ndarray:
        """Return the score of each layer pair: (LA, LB), 0 where a layer has no spread or nothing is left of it."""
        return self.permuted(np.arange(self.n))

    def permuted(self, order: np.ndarray) -> np.ndarray:
        """Return the scores when concept i of the first modality is paired with concept `order[i]` of the second."""
        right = np.take(self.right, order[self.pairs[0]] * self.n + order[self.pairs[1]], axis=0)
        left_over = 1 - ((self.basis @ right) ** 2).sum(axis=0)
        return self.left @ right / np.sqrt(np.maximum(left_over, NOTHING_LEFT))

    def subsets(self, chosen: np.ndarray) -> np.ndarray:
        """Return the scores of subsets of the concepts alone.

        Args:
            chosen: (R, m) indices of concepts, without repetition within a row.

        Returns:
            (R, LA, LB).
        """
        parts = np.split(chosen, range(SUBSETS_AT_ONCE, len(chosen), SUBSETS_AT_ONCE))
        return np.concatenate([self._subsets(part) for part in parts])

    def _subsets(self, chosen: np.ndarray) -> np.ndarray:
        # With w = 1 for the chosen concepts, the sum over their pairs of the product of two matrices is w' (A * B) w:
        # one matrix product for all subsets, where cutting the matrices would copy them for each.
        weights = np.zeros((len(chosen), self.n))
        np.put_along_axis(weights, chosen, 1, axis=1)
        rows = [[(weights @ matrix) * weights for matrix in side] for side in self.matrices]

        def covariances(i: int, j: int) -> np.ndarray:
            result = np.empty((len(chosen), len(self.matrices[i]), len(self.matrices[j])))
            for x, first in enumerate(self.matrices[i]):
                for y, second in enumerate(self.matrices[j]):
                    products = ((weights @ (first * second)) * weights).sum(axis=1)
                    result[:, x, y] = self._covariance(products, (rows[i][x], rows[j][y]), chosen.shape[1])
            return result

        def variances(i: int) -> np.ndarray:
            return np.stack(
                [
                    self._covariance(((weights @ matrix**2) * weights).sum(axis=1), (sums, sums), chosen.shape[1])
                    for matrix, sums in zip(self.matrices[i], rows[i], strict=True)
                ],
                axis=1,
            )

        across, first, second = covariances(0, 1), variances(0), variances(1)
        total = first[:, :, None] * second[:, None, :]
        if len(self.basis):
            of_first, of_second = covariances(0, 2), covariances(1, 2)
            inverse = np.linalg.pinv(covariances(2, 2), rcond=1e-10, hermitian=True)
            across = across - of_first @ inverse @ of_second.transpose(0, 2, 1)
            first = first - np.einsum("rap,rpq,raq->ra", of_first, inverse, of_first)
            second = second - np.einsum("rap,rpq,raq->ra", of_second, inverse, of_second)
        scale = np.maximum(first, 0)[:, :, None] * np.maximum(second, 0)[:, None, :]
        valid = scale > NOTHING_LEFT * np.maximum(total, ROUNDING)
        return np.divide(across, np.sqrt(scale), out=np.zeros_like(across), where=valid)


def _scaled(matrices: np.ndarray) -> np.ndarray:
    """Matrices with zero diagonals and values up to 1, so that `ROUNDING` means the same for all."""
    matrices = matrices.copy()
    diagonal = np.arange(matrices.shape[-1])
    matrices[:, diagonal, diagonal] = 0
    scale = np.abs(matrices).max(axis=(1, 2), keepdims=True)
    return np.divide(matrices, scale, out=np.zeros_like(matrices), where=scale > 0)


def _orthonormal(vectors: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the rows: (rank, P)."""
    if not len(vectors):
        return vectors
    values, directions = np.linalg.eigh(vectors @ vectors.T)
    kept = values > ROUNDING * max(values.max(), 1)
    return (directions[:, kept] / np.sqrt(values[kept])).T @ vectors


def _without(side: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Unit vectors of what a basis does not explain; zero where nothing is left."""
    residuals = side - (side @ basis.T) @ basis
    residuals[(residuals**2).sum(axis=1) < NOTHING_LEFT] = 0
    return unit_rows(residuals)


class KernelAlignment(_PairVectors):
    """Debiased linear CKA; with nuisances the partial one (partial distance correlation of linear kernels).

    Args:
        a, b: Features of the first and second modality, per layer.
        nuisances: Name -> (n, n) distances. Each is regressed on with its square, because the linear kernel of a
            variable is linear in the squared distances.
    """

    name = "cka"

    def __init__(self, a: Layers, b: Layers, *, nuisances: Mapping[str, np.ndarray] | None = None):
        first, second = paired_layers(a, b)
        given = checked_nuisances(nuisances, len(first[0]))
        powers = [matrix**power for matrix in given for power in (1, 2)]
        kernels = (np.stack([matrix @ matrix.T for matrix in side]) for side in (first, second))
        self.settings = {"nuisances": sorted(nuisances or {})}
        super().__init__(*kernels, powers)

    @staticmethod
    def _centred(matrices):
        return u_centred(matrices)

    @staticmethod
    def _covariance(products, rows, m):
        totals = rows[0].sum(axis=1) * rows[1].sum(axis=1)
        return products + totals / ((m - 1) * (m - 2)) - 2 * (rows[0] * rows[1]).sum(axis=1) / (m - 2)


class RankedDistances(_PairVectors):
    """RSA: Spearman correlation of the distances between concepts; with nuisances the partial one.

    Ranks are those among all concepts, also in `subsets`: they stand for the distribution of distances.

    Args:
        a, b: Features of the first and second modality, per layer.
        distance: "euclidean" or "cosine". What independent causes contribute adds up in squared Euclidean distances,
            so that a nuisance can be taken out. Lengths of vectors count in them, and cosines can find more.
        nuisances: Name -> (n, n) distances; with the Euclidean distance only.
        degree: Degree of the polynomial of the ranks of a nuisance that is regressed on; 1 is the textbook's partial
            Spearman correlation.
    """

    name = "rsa"

    def __init__(
        self,
        a: Layers,
        b: Layers,
        *,
        distance: str = "euclidean",
        nuisances: Mapping[str, np.ndarray] | None = None,
        degree: int = RSA_DEGREE,
    ):
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance={distance!r} is unknown; choose euclidean or cosine.")
        if nuisances and distance == "cosine":
            raise ValueError("Nuisances cannot be taken out of cosine distances; use distance='euclidean'.")
        if degree < 1:
            raise ValueError(f"degree = {degree}; a nuisance is regressed on with degree 1 or more.")
        first, second = paired_layers(a, b)
        given = [ranked_pairs(matrix) for matrix in checked_nuisances(nuisances, len(first[0]))]
        powers = [matrix**power for matrix in given for power in range(1, degree + 1)]
        prepared = (
            np.stack([ranked_pairs(cdist(x, x) if distance == "euclidean" else 1 - _cosines(x)) for x in side])
            for side in (first, second)
        )
        self.settings = {"distance": distance, "nuisances": sorted(nuisances or {}), "degree": degree}
        super().__init__(*prepared, powers)

    @staticmethod
    def _centred(matrices):
        n = matrices.shape[-1]
        # The diagonal is zero and no pair.
        return matrices - matrices.sum(axis=(1, 2), keepdims=True) / (n * (n - 1))

    @staticmethod
    def _covariance(products, rows, m):
        return products - rows[0].sum(axis=1) * rows[1].sum(axis=1) / (m * (m - 1))


def _cosines(matrix: np.ndarray) -> np.ndarray:
    unit = unit_rows(matrix)
    return unit @ unit.T


def checked_nuisances(nuisances: Mapping[str, np.ndarray] | None, n: int) -> list[np.ndarray]:
    """Return the nuisance matrices as float64.

    Raises:
        ValueError: If one is not a symmetric, finite (n, n) matrix.
    """
    checked = []
    for name, matrix in (nuisances or {}).items():
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape != (n, n) or not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
            raise ValueError(
                f"The nuisance matrix {name!r} has the shape {matrix.shape}; expected symmetric, finite distances of "
                f"the {n} concepts."
            )
        checked.append(matrix)
    return checked
