"""Built-in arrays: series of 12 channels whose classes lie in which channels are coupled, and at which frequency.

Each channel is the sum of two narrow-band processes, a slow and a fast one, of a drift and of white noise. In a series of
class (pairing, band), the channels of each pair of the pairing share their process of that band, the second one `LAG`
steps later; all other processes are independent. Every channel on its own has the same distribution in all classes:
its mean, variance and spectrum tell nothing, only its relation to others does. Amplitudes, phases, frequencies, drift
and noise differ from series to series. A series is a pure function of its split and its row.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

from d2v_train.data.rows import LazySequence, MemoryRows
from d2v_train.data.tables import Table


STEPS, CHANNELS = 400, 12
SIZES = {"train": 4000, "test": 800}
"""Number of series by split."""
PAIRINGS = {
    "neighbours": [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)],
    "halves": [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (5, 11)],
    "mirrored": [(0, 11), (1, 10), (2, 9), (3, 8), (4, 7), (5, 6)],
    "thirds": [(0, 4), (1, 5), (2, 6), (3, 7), (8, 10), (9, 11)],
}
"""Pairs of coupled channels."""
BANDS = {"slow": 0.05, "fast": 0.11}
"""Middle frequencies of the two processes of a channel, in cycles per step."""
CLASSES = [f"{pairing}, {band}" for pairing in PAIRINGS for band in BANDS]
LAG = 3
"""Steps by which the second channel of a pair follows the first one."""
COHERENCE = 40.0
"""Steps after which the phase of a process has mostly changed."""
_WARM_UP = 160
_SEEDS = {"train": 1, "test": 2}


def coupled_series(split: str, row: int) -> np.ndarray:
    """Return a series (`STEPS`, `CHANNELS`), float32."""
    rng = np.random.default_rng([_SEEDS[split], row])
    pairing, band = _class_of(row)
    steps = _WARM_UP + STEPS + LAG
    decay = np.exp(-1 / COHERENCE)
    noise = rng.standard_normal((len(BANDS), CHANNELS, steps, 2)) @ np.array([1.0, 1j])
    waves = lfilter([np.sqrt((1 - decay**2) / 2)], [1.0, -decay], noise, axis=-1)
    frequencies = np.array(list(BANDS.values())) * rng.uniform(0.9, 1.1, len(BANDS))
    waves = (waves * np.exp(2j * np.pi * frequencies[:, None, None] * np.arange(steps))).real
    now = waves[..., LAG:]
    late = waves[..., :-LAG]
    mixed = np.copy(now)
    for first, second in PAIRINGS[pairing]:
        mixed[band, second] = late[band, first]
    mixed = mixed[..., _WARM_UP:] * rng.lognormal(0.0, 0.3, (len(BANDS), CHANNELS, 1))
    drift = np.cumsum(rng.standard_normal((CHANNELS, STEPS)), axis=-1) * 0.03
    series = mixed.sum(axis=0) + drift + 0.3 * rng.standard_normal((CHANNELS, STEPS))
    series = series * rng.lognormal(0.0, 0.3, (CHANNELS, 1)) + 0.5 * rng.standard_normal((CHANNELS, 1))
    return np.ascontiguousarray(series.T, dtype=np.float32)


def coupled_series_table(split: str) -> Table:
    """Return the series of a split as a table."""
    size = SIZES[split]
    names = [f"coupled series {split} {row}" for row in range(size)]
    values = LazySequence(size, lambda row: coupled_series(split, row))
    return Table(MemoryRows(values, names), np.arange(size, dtype=np.int64) % len(CLASSES), None, list(CLASSES))


def _class_of(row: int) -> tuple[str, int]:
    """Return the pairing and the number of the band of a row."""
    number = row % len(CLASSES)
    return list(PAIRINGS)[number // len(BANDS)], number % len(BANDS)
