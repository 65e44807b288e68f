"""Blind matching: find which concept is which from the two similarity matrices alone, without a pair.

Quadratic assignment of the U-centred linear kernels: every order is tried up to `BRUTE_FORCE` concepts, local search
by swaps from several starts is used above (the optimum may then be missed, so the accuracy is a lower bound).

The second modality is shuffled first. The order found for unrelated modalities is then uniform, ties and preferences
of the search included, and the number of right matches is distributed as the fixed points of a random order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.optimize import quadratic_assignment

from d2v_train.alignment.features import paired_layers
from d2v_train.alignment.geometry import u_centred


BRUTE_FORCE = 9
"""Most concepts for which all orders are tried: 362,880."""
ORDERS_AT_ONCE = 20_000


@dataclass(frozen=True)
class BlindMatching:
    """Result of a blind matching.

    Attributes:
        concepts: Number of concepts.
        correct: Number of concepts that were matched to themselves.
        accuracy: Their share.
        chance: Expected accuracy of a random order, 1 / n.
        p_value: Probability of at least as many right matches in a random order.
        objective: Inner product of the matched kernels, relative to the product of their norms.
        true_objective: The same under the true order; above `objective` where the search missed it.
        exact: Whether all orders were tried.
        matches: For each concept of the first modality, the concept of the second.
    """

    concepts: int
    correct: int
    accuracy: float
    chance: float
    p_value: float
    objective: float
    true_objective: float
    exact: bool
    matches: tuple[int, ...]


def blind_matching(a: np.ndarray, b: np.ndarray, *, restarts: int = 20, seed: int = 0) -> BlindMatching:
    """Match the concepts of two modalities by their similarities within each.

    Args:
        a, b: (n, d) features of one layer each; row i is concept i in both.
        restarts: Starts of the search, above `BRUTE_FORCE` concepts.
        seed: Of the shuffle and the starts.
    """
    (first,), (second,) = paired_layers([a], [b])
    n = len(first)
    random = np.random.default_rng(seed)
    shuffle = random.permutation(n)
    left, right = (_kernel(side) for side in (first, second[shuffle]))
    found = _try_all(left, right) if n <= BRUTE_FORCE else _search(left, right, restarts, random)
    matches = shuffle[found]
    correct = int((matches == np.arange(n)).sum())
    truth = np.argsort(shuffle)
    return BlindMatching(
        concepts=n,
        correct=correct,
        accuracy=correct / n,
        chance=1 / n,
        p_value=fixed_points_p_value(n, correct),
        objective=_objective(left, right, found),
        true_objective=_objective(left, right, truth),
        exact=n <= BRUTE_FORCE,
        matches=tuple(int(match) for match in matches),
    )


def fixed_points_p_value(n: int, least: int) -> float:
    """Return the probability that a random order of n leaves at least `least` in place."""

    # Orders with exactly j fixed points: n! / j! times the alternating sum of 1 / i! for i up to n - j.
    def share(fixed: int) -> float:
        alternating = math.fsum((-1) ** i * math.exp(-math.lgamma(i + 1)) for i in range(n - fixed + 1))
        return max(alternating, 0) * math.exp(-math.lgamma(fixed + 1))

    if least > n / 2:
        return math.fsum(share(fixed) for fixed in range(least, n + 1))
    return 1 - math.fsum(share(fixed) for fixed in range(least))


def _kernel(matrix: np.ndarray) -> np.ndarray:
    kernel = u_centred((matrix @ matrix.T)[None])[0]
    norm = np.linalg.norm(kernel)
    return kernel / norm if norm > 0 else kernel


def _objective(left: np.ndarray, right: np.ndarray, order: np.ndarray) -> float:
    return float((left * right[np.ix_(order, order)]).sum())


def _try_all(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    orders = np.array(list(permutations(range(len(left)))), dtype=np.int8)
    values = np.concatenate(
        [
            np.einsum("ij,pij->p", left, right[part[:, :, None], part[:, None, :]])
            for part in np.split(orders, range(ORDERS_AT_ONCE, len(orders), ORDERS_AT_ONCE))
        ]
    )
    return orders[int(values.argmax())].astype(np.int64)


def _search(left: np.ndarray, right: np.ndarray, restarts: int, random: np.random.Generator) -> np.ndarray:
    """Best of several starts: a relaxation (FAQ, Vogelstein et al. 2015) from a random point, improved by swaps."""
    best, best_value = np.arange(len(left)), -np.inf
    for _ in range(restarts):
        options = {"maximize": True, "P0": "randomized", "rng": random}
        order = _swap(left, right, quadratic_assignment(left, right, method="faq", options=options).col_ind)
        value = _objective(left, right, order)
        if value > best_value:
            best, best_value = order, value
    return best


def _swap(left: np.ndarray, right: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Improve an order by the best swap of two concepts until none helps."""
    order = order.copy()
    while True:
        moved = right[np.ix_(order, order)]
        products = left @ moved
        own = np.diag(products)
        gains = products + products.T - own[:, None] - own[None, :] + 2 * left * moved
        i, j = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[i, j] <= 1e-12:
            return order
        order[[i, j]] = order[[j, i]]
