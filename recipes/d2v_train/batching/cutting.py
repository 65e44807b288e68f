"""Cutting a row of samples into steps of about equal tokens, and into forward passes of about equal cost.

All functions return bounds: piece i of a row is row[bounds[i] : bounds[i + 1]]. No piece is empty.
"""

from __future__ import annotations

import numpy as np


def even_bounds(lengths: np.ndarray, pieces: int) -> np.ndarray:
    """Return the bounds of `pieces` pieces whose sums of lengths are about equal.

    Args:
        lengths: (N,) integers, N at least `pieces`.
        pieces: Number of pieces.
    """
    ends = np.cumsum(lengths)
    middles = ends - lengths / 2
    inner = np.searchsorted(middles, ends[-1] * np.arange(1, pieces) / pieces)
    # At least one sample per piece: each bound is above the previous one, with enough samples after it.
    least = np.arange(1, pieces)
    inner = np.maximum.accumulate(inner - least) + least
    inner = np.clip(inner, least, len(lengths) - pieces + least)
    return np.concatenate([[0], inner, [len(lengths)]])


def padded_bounds(lengths: np.ndarray, pieces: int) -> np.ndarray:
    """Return the bounds of `pieces` pieces whose largest padded size is minimal.

    The padded size of a piece is its number of samples times its greatest length.

    Args:
        lengths: (N,) ascending integers, N at least `pieces`.
        pieces: Number of pieces.
    """
    low, high = int(lengths[-1]), int(lengths[-1]) * (len(lengths) - pieces + 1)
    while low < high:
        middle = (low + high) // 2
        if len(_fill(lengths, middle, 1)) - 1 <= pieces:
            high = middle
        else:
            low = middle + 1
    return _fill(lengths, low, pieces)


def padded_sizes(lengths: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the padded size of each piece."""
    return np.diff(bounds) * np.maximum.reduceat(lengths, bounds[:-1])


def _fill(lengths: np.ndarray, most: int, pieces: int) -> np.ndarray:
    """Return the bounds of at least `pieces` pieces, filled one after another up to a padded size."""
    bounds = [0]
    while bounds[-1] < len(lengths):
        first, left = bounds[-1], max(0, pieces - len(bounds))
        rest = lengths[first : len(lengths) - left]
        # Ascending like the lengths: the padded size of the first 1, 2, ... samples.
        fits = int(np.searchsorted(rest * np.arange(1, len(rest) + 1), most, side="right"))
        bounds.append(first + max(1, fits))
    return np.array(bounds)


def pass_bounds(
    count: int,
    lengths: np.ndarray | None,
    processes: int,
    passes: int = 1,
    most_samples: int | None = None,
    most_tokens: int | None = None,
) -> np.ndarray:
    """Return the bounds of the forward passes of a step, the same number for every process.

    If a step has too few samples to give every process one more pass, a pass exceeds the limit.

    Args:
        count: Samples of the step, at least one per process.
        lengths: (count,) ascending; None for pieces of about the same number of samples.
        processes: Number of processes.
        passes: Passes of each process without a limit.
        most_samples: Largest number of samples of a pass.
        most_tokens: Largest padded size of a pass; needs lengths.
    """
    highest = count // processes
    if most_samples is not None:
        passes = -(-count // (most_samples * processes))
    elif most_tokens is not None:
        passes = -(-int(lengths.sum()) // (most_tokens * processes))
    passes = min(passes, highest)
    if lengths is None:
        return count * np.arange(passes * processes + 1) // (passes * processes)
    while True:
        bounds = padded_bounds(lengths, passes * processes)
        too_large = most_tokens is not None and padded_sizes(lengths, bounds).max() > most_tokens
        too_many = most_samples is not None and np.diff(bounds).max() > most_samples
        if passes == highest or not (too_large or too_many):
            return bounds
        passes += 1
