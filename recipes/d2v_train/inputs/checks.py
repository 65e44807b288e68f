"""Checks of the arguments of transforms."""

from __future__ import annotations

from collections.abc import Sequence


def _range(name: str, value: float | Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Return `value` as (least, greatest), both in (low, high]."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair)
    if len(pair) != 2 or not numbers or not low < pair[0] <= pair[1] <= high:
        upper = "" if high == float("inf") else f" and up to {high:g}"
        raise ValueError(f"Option {name} is {value}; it must be a number or two ascending ones, above {low:g}{upper}.")
    return float(pair[0]), float(pair[1])
