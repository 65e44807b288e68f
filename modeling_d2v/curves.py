"""The order of the entries of an array along a space-filling curve."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def hilbert_index(coordinates: Tensor, bits: int) -> Tensor:
    """Return the place of points on a Hilbert curve (Skilling 2004, "Programming the Hilbert curve").

    Successive places are neighbours, so that any stretch of the curve is one region; on the simpler Z-order curve a
    stretch may be two regions far from each other.

    Args:
        coordinates: Integers (N, d) in [0, 2 ** bits).
        bits: Of each coordinate; d times `bits` below 63.

    Returns:
        (N,) int64, distinct for distinct points.
    """
    axes = [axis.clone() for axis in coordinates.to(torch.int64).unbind(dim=1)]
    for bit in reversed(range(1, bits)):
        low = (1 << bit) - 1
        for i, axis in enumerate(axes):
            if i == 0:
                axes[0] = torch.where((axis >> bit) & 1 == 1, axes[0] ^ low, axes[0])
                continue
            inverted = (axis >> bit) & 1 == 1
            swapped = (axes[0] ^ axis) & low
            axes[i] = torch.where(inverted, axis, axis ^ swapped)
            axes[0] = torch.where(inverted, axes[0] ^ low, axes[0] ^ swapped)
    for i in range(1, len(axes)):  # Gray code
        axes[i] = axes[i] ^ axes[i - 1]
    correction = torch.zeros_like(axes[0])
    for bit in range(1, bits):
        correction = torch.where((axes[-1] >> bit) & 1 == 1, correction ^ ((1 << bit) - 1), correction)
    place = torch.zeros_like(axes[0])
    for bit in reversed(range(bits)):
        for axis in axes:
            place = (place << 1) | (((axis ^ correction) >> bit) & 1)
    return place


@lru_cache(maxsize=64)
def curve_order(sides: tuple[int, ...]) -> Tensor:
    """Return the flat indices (N,) of the entries of an array of `sides` in the order of a Hilbert curve, on the CPU.

    The curve is that of the smallest cube around the array whose side is a power of 2. An array of one dimension keeps
    its order.
    """
    with torch.device("cpu"):
        count = math.prod(sides)
        if sum(side > 1 for side in sides) < 2:
            return torch.arange(count)
        points = torch.cartesian_prod(*(torch.arange(side) for side in sides))
        return hilbert_index(points, (max(sides) - 1).bit_length()).argsort()
