"""Constructed pairs of modalities with known answers, for the tests of alignment.

Every function returns two (n, d) matrices whose row i is concept i.
"""

import numpy as np


def identical(n=60, d=16, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x, x.copy()


def rotated(n=60, d=16, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, d))
    return x, x @ np.linalg.qr(random.normal(size=(d, d)))[0]


def scaled(n=60, d=16, seed=0):
    """Scaled and moved."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x, 37.5 * x + 4


def independent(n=60, d=16, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.normal(size=(n, d))


def half_shared(n=60, d=16, seed=0):
    """Half of the features in common, in rotated spaces."""
    random = np.random.default_rng(seed)
    common, first, second = (random.normal(size=(n, d // 2)) for _ in range(3))
    turn = np.linalg.qr(random.normal(size=(d, d)))[0]
    return np.hstack([common, first]), np.hstack([common, second]) @ turn


def confounded(n=60, d=16, seed=0, strength=3.0):
    """Nothing in common but one variable, and the distances of that variable."""
    random = np.random.default_rng(seed)
    variable = random.normal(size=n)
    sides = []
    for _ in range(2):
        direction = random.normal(size=d)
        direction *= strength / np.linalg.norm(direction)
        sides.append(random.normal(size=(n, d)) + variable[:, None] * direction)
    return *sides, np.abs(variable[:, None] - variable[None])


ALIGNED = {"identical": identical, "rotated": rotated, "scaled": scaled}
