"""The order of the entries of an array along a space-filling curve."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def hilbert_index(coordinates: np.ndarray, bits: int) -> np.ndarray:
    """Return the place of points on a Hilbert curve (Skilling 2004, "Programming the Hilbert curve").

    Successive places are neighbours, so that any stretch of the curve is one region; on the simpler Z-order curve a
    stretch may be two regions far from each other.

    Args:
        coordinates: Integers (N, d) in [0, 2 ** bits).
        bits: Of each coordinate; d times `bits` below 63.

    Returns:
        (N,) int64, distinct for distinct points.
    """
    axes = list(coordinates.astype(np.int64).T)
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for i, axis in enumerate(axes):
            if i == 0:
                axes[0] = np.where((axis >> bit) & 1 == 1, axes[0] ^ low, axes[0])
                continue
            inverted = (axis >> bit) & 1 == 1
            swapped = (axes[0] ^ axis) & low
            axes[i] = np.where(inverted, axis, axis ^ swapped)
            axes[0] = np.where(inverted, axes[0] ^ low, axes[0] ^ swapped)
    for i in range(1, len(axes)):  # Gray code
        axes[i] = axes[i] ^ axes[i - 1]
    correction = np.zeros_like(axes[0])
    for bit in range(1, bits):
        correction = np.where((axes[-1] >> bit) & 1 == 1, correction ^ ((1 << bit) - 1), correction)
    place = np.zeros_like(axes[0])
    for bit in reversed(range(bits)):
        for axis in axes:
            place = (place << 1) | (((axis ^ correction) >> bit) & 1)
    return place


@lru_cache(maxsize=64)
def _visited(sides: tuple[int, ...]) -> np.ndarray:
    # Not a tensor: one made while a program is exported, or in inference mode, would stay so for every later call.
    count = math.prod(sides)
    if sum(side > 1 for side in sides) < 2:
        return np.arange(count)
    points = np.stack(np.unravel_index(np.arange(count), sides), axis=1)
    return hilbert_index(points, (max(sides) - 1).bit_length()).argsort(kind="stable")


def curve_order(sides: tuple[int, ...]) -> Tensor:
    """Return the flat indices (N,) of the entries of an array of `sides` in the order of a Hilbert curve, on the CPU.

    The curve is that of the smallest cube around the array whose side is a power of 2. An array of one dimension keeps
    its order.
    """
    return torch.tensor(_visited(sides), device="cpu")
