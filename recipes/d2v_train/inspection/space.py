"""Where modalities lie in the states of a layer: the gap between their means, and principal components.

Legend: N items, D width, C concepts.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from d2v_train.inspection.results import Space


def modality_gap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the distance of the means of two sets of states, (N, D), over their root mean square spread.

    The spread is the root mean square distance of an item from the mean of its own set. 0 means that the modalities
    lie in one place; above 1, they lie further apart than their items do.
    """
    means = [np.asarray(part, dtype=np.float64).mean(axis=0) for part in (first, second)]
    spread = np.mean(
        [np.square(part - mean).sum(axis=1).mean() for part, mean in zip((first, second), means, strict=True)]
    )
    return float(np.linalg.norm(means[0] - means[1]) / max(np.sqrt(spread), 1e-12))


def principal_components(points: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return the coordinates (N, 2) of points (N, D) on two principal components, and their shares of the variance.

    The largest coordinate of each component is positive, so that the result does not depend on the library.
    """
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = np.zeros((len(points), 2))
    count = min(2, len(values))
    coordinates[:, :count] = left[:, :count] * values[:count]
    largest = np.abs(coordinates).argmax(axis=0)
    signs = np.sign(coordinates[largest, [0, 1]])
    total = np.square(values).sum()
    explained = np.square(values[:count]) / total if total > 0 else np.zeros(count)
    return coordinates * np.where(signs == 0, 1, signs), [*explained.tolist(), 0.0, 0.0][:2]


def find_space(states: dict[str, np.ndarray], concepts: dict[str, np.ndarray], names: list[str], layer: str) -> Space:
    """Return gaps and principal components of the means of concepts.

    Args:
        states: By modality, mean states (N, D) of its items.
        concepts: By modality, (N,) their concepts.
        names: C names.
        layer: Name of the layer.

    Raises:
        ValueError: If a modality lacks a concept.
    """
    means = {}
    for modality, values in states.items():
        lacking = set(range(len(names))) - set(concepts[modality].tolist())
        if lacking:
            raise ValueError(f"There is no {modality} item of {names[min(lacking)]!r}.")
        means[modality] = np.stack(
            [values[concepts[modality] == concept].mean(axis=0) for concept in range(len(names))]
        )
    plain, explained = principal_components(np.concatenate(list(means.values())))
    centred, centred_explained = principal_components(
        np.concatenate([values - values.mean(axis=0) for values in means.values()])
    )

    def by_modality(points: np.ndarray) -> dict[str, list[list[float]]]:
        parts = np.split(points, len(means))
        return {name: np.round(part, 5).tolist() for name, part in zip(means, parts, strict=True)}

    return Space(
        layer=layer,
        gap={f"{a} {b}": modality_gap(states[a], states[b]) for a, b in combinations(states, 2)},
        names=list(names),
        points=by_modality(plain),
        explained=explained,
        centred=by_modality(centred),
        centred_explained=centred_explained,
    )
