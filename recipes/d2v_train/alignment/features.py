"""Concept matrices: what the measures accept, checked once.

Legend: n concepts, d features, LA and LB layers of the first and of the second modality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


MIN_CONCEPTS = 4
"""Fewest concepts for which every measure is defined: the U-statistic divides by n - 3."""

Layers = np.ndarray | Sequence[np.ndarray]
"""One (n, d) matrix, or one per layer; row i of every matrix is concept i."""


def as_layers(layers: Layers, name: str = "features") -> list[np.ndarray]:
    """Return the matrices of the layers as float64, centred on the mean of the concepts.

    The direction that all inputs of a modality share makes every cosine large and says nothing about concepts, so all
    measures work on centred features.

    Args:
        layers: One (n, d) matrix or a sequence of them.
        name: How errors call them.

    Raises:
        ValueError: If there is no layer, a matrix is not two-dimensional, holds NaN or infinity, has fewer than
            `MIN_CONCEPTS` rows, or the layers differ in the number of rows.
    """
    matrices = [layers] if isinstance(layers, np.ndarray) and layers.ndim == 2 else list(layers)
    if not matrices:
        raise ValueError(f"{name} holds no layer; give at least one matrix of shape (concepts, features).")
    centred = []
    for index, matrix in enumerate(matrices):
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.ndim != 2:
            raise ValueError(f"Layer {index} of {name} has the shape {matrix.shape}; expected (concepts, features).")
        if len(matrix) < MIN_CONCEPTS:
            raise ValueError(f"{name} holds {len(matrix)} concepts; the measures need at least {MIN_CONCEPTS}.")
        if len(matrix) != len(matrices[0]):
            raise ValueError(
                f"Layer {index} of {name} has {len(matrix)} concepts, layer 0 has {len(matrices[0])}; "
                "row i must be the same concept in every layer."
            )
        if not np.isfinite(matrix).all():
            raise ValueError(f"Layer {index} of {name} holds NaN or infinite values; leave out what failed to encode.")
        centred.append(matrix - matrix.mean(axis=0))
    return centred


def paired_layers(a: Layers, b: Layers) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the centred layers of both modalities.

    Raises:
        ValueError: As `as_layers`, or if the modalities differ in the number of concepts.
    """
    first, second = as_layers(a, "the first modality"), as_layers(b, "the second modality")
    if len(first[0]) != len(second[0]):
        raise ValueError(
            f"The first modality has {len(first[0])} concepts, the second {len(second[0])}; "
            "row i must be the same concept in both."
        )
    return first, second


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Return the matrix with rows of unit norm; rows of zeros stay as they are."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
