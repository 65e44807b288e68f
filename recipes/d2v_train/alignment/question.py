"""One concept: where do its examples of modality A rank the concepts that are seen from modality B?

"direct" compares the vectors as they are, each modality without its mean, which asks whether the space is shared.
"map" compares them after a linear map that ridge regression learned on all other concepts, so that the concept itself
is never used.

The null permutes the concepts of modality A and learns the map again. Those of modality B stay where they are: animals
that look alike are near to a query or far from it together, and a null that scattered them would take that for
meaning.

Legend: n concepts, E examples, D width, K permutations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2v_train.alignment.features import unit_rows
from d2v_train.alignment.nulls import draw_permutations
from d2v_train.alignment.results import LevelRank, Neighbours, Question


RIDGE = 1.0
"""Penalty of the map, in units of the mean variance of the training concepts."""
NEAREST_SHOWN = 10


def direct_similarities(queries: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosines of queries of the first modality with the concepts of the second: (E, n).

    Args:
        queries: (E, D) vectors of the first modality.
        first, second: (n, D) concepts of both modalities.
    """
    return unit_rows(queries - first.mean(axis=0)) @ unit_rows(second - second.mean(axis=0)).T


def mapped_similarities(
    queries: np.ndarray, first: np.ndarray, second: np.ndarray, concept: int, ridge: float = RIDGE
) -> np.ndarray:
    """Return the same after a linear map from the first to the second modality, learned without one concept.

    Args:
        queries: (E, D1) vectors of the first modality.
        first: (n, D1) concepts.
        second: (n, D2) concepts.
        concept: Index of the concept that the map does not see.
        ridge: Penalty.
    """
    known = np.arange(len(first)) != concept
    mean = first[known].mean(axis=0)
    kernel = (first[known] - mean) @ (first[known] - mean).T
    penalty = ridge * np.trace(kernel) / known.sum()
    weights = np.linalg.solve(kernel + penalty * np.eye(len(kernel)), (first[known] - mean) @ (queries - mean).T).T
    targets = second - second[known].mean(axis=0)
    return unit_rows(weights @ targets[known]) @ unit_rows(targets).T


def compare(method: str, queries: np.ndarray, first: np.ndarray, second: np.ndarray, concept: int) -> np.ndarray:
    """Return the similarities by a method, "direct" or "map": (E, n)."""
    if method == "direct":
        return direct_similarities(queries, first, second)
    return mapped_similarities(queries, first, second, concept)


def ranks_of(similarities: np.ndarray, concept: int) -> np.ndarray:
    """Return the rank of a concept for each query, from 1; concepts that tie share the middle rank: (E,) float64."""
    own = similarities[:, concept : concept + 1]
    return 1 + (similarities > own).sum(axis=1) + ((similarities == own).sum(axis=1) - 1) / 2


def percentiles(similarities: np.ndarray) -> np.ndarray:
    """Return where each concept lies among all for one query, from 0 (farthest) to 1 (nearest): (n,)."""
    n = len(similarities)
    below = (similarities[None] < similarities[:, None]).sum(axis=1)
    ties = (similarities[None] == similarities[:, None]).sum(axis=1) - 1
    return (below + ties / 2) / (n - 1)


def levels_of(groups: Sequence[str], concept: int) -> dict[str, np.ndarray]:
    """Return the sets of concepts that a concept is compared with: itself, its groups, everything else.

    Args:
        groups: Group of each concept, such as "animal/mammal"; a slash separates narrower groups.
        concept: Index of the concept.

    Returns:
        Level -> (n,) bool. A wider group leaves out the narrower ones, and all leave out the concept itself.
    """
    n = len(groups)
    own = np.arange(n) == concept
    levels, taken = {"itself": own}, own.copy()
    parts = groups[concept].split("/") if groups[concept] else []
    for depth in range(len(parts), 0, -1):
        name = "/".join(parts[:depth])
        members = np.array([group == name or group.startswith(f"{name}/") for group in groups]) & ~taken
        if members.any():
            levels[name if depth == len(parts) else f"other {name}"] = members
            taken |= members
    if not taken.all():
        levels["everything else"] = ~taken
    return levels


def ask(
    name: str,
    names: Sequence[str],
    groups: Sequence[str],
    exemplars: np.ndarray,
    labels: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    *,
    method: str,
    permutations: int,
    where: Mapping[str, Any],
    seed: int = 0,
) -> Question:
    """Answer the question for one concept.

    Args:
        name: The concept.
        names, groups: n concepts and their groups.
        exemplars: (E, D1) examples of the concept in the first modality.
        labels: E names of the examples.
        first, second: (n, D1) and (n, D2) concepts of both modalities.
        method: "direct" or "map".
        permutations: K.
        where: Fields of `Question` that say what was compared: `model`, `first`, `second`, `layers`.
        seed: Of the permutations.

    Raises:
        ValueError: If the concept is not among the names.
    """
    if name not in names:
        raise ValueError(f"There is no concept {name!r} in both modalities; there are {', '.join(names)}.")
    concept, n = list(names).index(name), len(names)
    queries = np.concatenate([exemplars, first[concept : concept + 1]])
    observed = compare(method, queries, first, second, concept)
    levels = levels_of(groups, concept)
    positions = percentiles(observed[-1])
    ranks = ranks_of(observed, concept)
    null_ranks, null_levels = [], {level: [] for level in levels}
    for order in draw_permutations(n, permutations, seed=seed):
        moved = first[order]
        permuted = compare(method, moved[concept : concept + 1], moved, second, concept)
        null_ranks.append(ranks_of(permuted, concept)[0])
        at = percentiles(permuted[0])
        for level, members in levels.items():
            null_levels[level].append(at[members].mean())
    return Question(
        concept=name,
        method=method,
        n=n,
        exemplar_ranks=[int(np.ceil(rank)) for rank in ranks[:-1]],
        exemplar_names=list(labels),
        mean_rank=float(ranks[-1]),
        null_mean_rank=float(np.mean(null_ranks)),
        p=_share(np.array(null_ranks) <= ranks[-1]),
        levels=[
            LevelRank(
                level=level,
                concepts=int(members.sum()),
                mean_percentile=float(positions[members].mean()),
                null_mean=float(np.mean(null_levels[level])),
                null_std=float(np.std(null_levels[level], ddof=1)),
                p=_share(np.array(null_levels[level]) >= positions[members].mean() - 1e-12),
            )
            for level, members in levels.items()
        ],
        nearest=[names[i] for i in np.argsort(-observed[-1], kind="stable")[:NEAREST_SHOWN]],
        **where,
    )


def _share(as_extreme: np.ndarray) -> float:
    return float((1 + as_extreme.sum()) / (len(as_extreme) + 1))


def neighbours_of(
    names: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    *,
    method: str,
    where: Mapping[str, Any],
    shown: int = 5,
) -> list[Neighbours]:
    """Return the nearest concepts of each concept in the other modality.

    Args:
        names: n concepts.
        first, second: (n, D1) and (n, D2) concepts of both modalities.
        method: "direct" or "map".
        where: Fields of `Neighbours` that say what was compared.
        shown: Neighbours of each.
    """
    found = []
    for i, name in enumerate(names):
        query = first[i : i + 1]
        (similarities,) = compare(method, query, first, second, i)
        order = np.argsort(-similarities, kind="stable")
        rank = int(np.ceil(ranks_of(similarities[None], i)[0]))
        found.append(
            Neighbours(
                method=method,
                concept=name,
                neighbours=[names[j] for j in order[:shown]],
                similarities=[round(float(similarities[j]), 4) for j in order[:shown]],
                rank=rank,
                hit=rank == 1,
                **where,
            )
        )
    return found
