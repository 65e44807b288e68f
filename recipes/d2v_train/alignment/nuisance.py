"""Nuisance matrices: distances between concepts that could align two modalities without any meaning.

Each function returns a symmetric (n, n) matrix with zero diagonal, for `partial_rsa`, `partial_cka` and the setting
`nuisances` of `align`. Words that names share are the strongest nuisance: an untrained text encoder that knows only
which words are equal is far above every permutation null. `without_shared_words` leaves such names out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from d2v_train.alignment.geometry import ranked_pairs


GROUP_SIZE = 4
"""With four alike concepts in a group, tests given a nuisance hold their level; with eight the larger ones do not."""


def words_of(name: str) -> list[str]:
    """Return the words of a name, in lower case; "black-footed ferret" has three."""
    return re.findall(r"[^\W_]+", name.lower())


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Return the number of insertions, deletions and substitutions between two sequences (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(second, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def edit_distances(sequences: Sequence[Sequence]) -> np.ndarray:
    """Return edit distances over the length of the longer sequence, 0 to 1.

    Args:
        sequences: Names, for the distance of letters, or lists of phonemes.
    """
    return _symmetric(
        len(sequences),
        lambda i, j: edit_distance(sequences[i], sequences[j]) / max(len(sequences[i]), len(sequences[j]), 1),
    )


def shared_words(names: Sequence[str]) -> np.ndarray:
    """Return 1 - (words in common / words of both) for each two names: 0 for the same words, 1 for none in common."""
    bags = [set(words_of(name)) for name in names]
    return _symmetric(len(names), lambda i, j: 1 - len(bags[i] & bags[j]) / max(len(bags[i] | bags[j]), 1))


def without_shared_words(names: Sequence[str]) -> np.ndarray:
    """Return the indices of the names that have no word in common with any other name."""
    bags = [set(words_of(name)) for name in names]
    uses = Counter(word for bag in bags for word in bag)
    return np.array([i for i, bag in enumerate(bags) if all(uses[word] == 1 for word in bag)], dtype=np.int64)


def word_counts(names: Sequence[str]) -> np.ndarray:
    """Return how often each word occurs in each name: (n, words). Features of no network, as a lexical control."""
    bags = [Counter(words_of(name)) for name in names]
    vocabulary = sorted({word for bag in bags for word in bag})
    return np.array([[bag[word] for word in vocabulary] for bag in bags], dtype=np.float64)


def differences(values: np.ndarray) -> np.ndarray:
    """Return Euclidean distances between values of the concepts.

    Args:
        values: (n,) numbers, such as lengths of names or durations, or (n, d), such as mean colours.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not np.isfinite(values).all():
        raise ValueError(f"Values of the shape {values.shape}; expected finite numbers of shape (n,) or (n, d).")
    values = values.reshape(len(values), -1)
    squares = ((values[:, None] - values[None]) ** 2).sum(axis=-1)
    return np.sqrt(squares)


def log_differences(counts: np.ndarray) -> np.ndarray:
    """Return differences of log(1 + count), for frequencies: (n, n)."""
    return differences(np.log1p(np.asarray(counts, dtype=np.float64)))


def name_nuisances(
    names: Sequence[str],
    *,
    frequencies: Sequence[float] | None = None,
    phonemes: Sequence[Sequence] | None = None,
) -> dict[str, np.ndarray]:
    """Return the nuisances of names: letters, words in common, length, and where given frequency and phonemes.

    Words in common are left out where no two names have any.

    Args:
        names: One per concept.
        frequencies: How often each name occurs in a corpus.
        phonemes: Phonemes of each name.
    """
    found = {"letters": edit_distances([name.lower() for name in names])}
    found["length"] = differences(np.array([len(name) for name in names]))
    words = shared_words(names)
    if words.sum() < len(names) * (len(names) - 1):
        found["shared_words"] = words
    if frequencies is not None:
        found["frequency"] = log_differences(np.asarray(frequencies))
    if phonemes is not None:
        found["phonemes"] = edit_distances(phonemes)
    return found


def item_nuisances(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the nuisances of what the items of a concept have in common, such as mean colour (n, 3) or duration (n,).

    Args:
        values: Name -> one row per concept.
    """
    return {name: differences(rows) for name, rows in values.items()}


def alike_groups(nuisances: Mapping[str, np.ndarray], size: int = GROUP_SIZE) -> np.ndarray:
    """Return groups of concepts that are alike in the nuisances, for permutations within groups: (n,) labels.

    A partial measure is near zero on average when a nuisance alone aligns two modalities, but varies more than under
    permutations of all concepts, which destroy the nuisance; permutations among alike concepts keep it.

    Args:
        nuisances: Name -> (n, n) distances. Each counts by the ranks of its distances.
        size: Concepts of a group; what remains after the last full group joins it.
    """
    total = sum(ranked_pairs(np.asarray(matrix, dtype=np.float64)) for matrix in nuisances.values())
    n = len(total)
    labels = np.full(n, -1)
    # The concept that is farthest from the others first: left to the end, it would get what nobody else took.
    remaining = list(np.argsort(-total.sum(axis=1), kind="stable"))
    for label in range(max(n // size, 1)):
        first = remaining[0]
        nearest = sorted(remaining[1:], key=lambda other: total[first, other])[: size - 1]
        labels[[first, *nearest]] = label
        remaining = [concept for concept in remaining if labels[concept] < 0]
    for concept in remaining:
        others = np.flatnonzero(labels >= 0)
        labels[concept] = labels[others[total[concept, others].argmin()]]
    return labels


def _symmetric(n: int, distance) -> np.ndarray:
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = distance(i, j)
    return matrix
