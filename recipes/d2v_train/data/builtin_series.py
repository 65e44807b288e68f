"""Built-in arrays: series of 12 channels whose classes lie in the order in which pulses travel over the channels.

A series is a train of beats. In each beat every channel has one pulse, and the channels follow one another, with the
same lag between neighbours, in the order of the class; no two channels are neighbours in two classes. Phase, length
of the beats, size of the pulses, gain of the channels, drift and noise, which is stronger than the pulses,
differ from series to series. Every channel on its own has the same distribution in all classes: its mean, variance and
spectrum tell nothing, only which channel follows which does. A series is a pure function of its split and its row.
"""

from __future__ import annotations

import numpy as np

from d2v_train.data.rows import LazySequence, MemoryRows
from d2v_train.data.tables import Table


STEPS, CHANNELS = 256, 12
SERIES = {"train": 4000, "test": 800}
"""Number of series by split."""
CHANNEL_ORDERS = {
    "north": [0, 4, 10, 9, 3, 8, 5, 11, 1, 7, 6, 2],
    "east": [0, 7, 2, 1, 9, 4, 6, 5, 3, 11, 10, 8],
    "south": [0, 6, 10, 1, 4, 5, 9, 7, 8, 11, 2, 3],
    "west": [0, 11, 7, 4, 8, 9, 2, 10, 3, 6, 1, 5],
}
"""Order of the channels in a beat, by class."""
BEAT = (36.0, 60.0)
"""Shortest and longest mean beat of a series, in steps."""
PULSE = 1 / 12
"""Standard deviation of a pulse, in beats."""
NOISE = 1.0
"""Standard deviation of the noise; a pulse is 1 high on average."""
_SEEDS = {"train": 1, "test": 2}


def travelling_pulses(split: str, row: int) -> np.ndarray:
    """Return a series (`STEPS`, `CHANNELS`), float32."""
    rng = np.random.default_rng([_SEEDS[split], row])
    order = list(CHANNEL_ORDERS.values())[row % len(CHANNEL_ORDERS)]
    steps, series = np.arange(STEPS)[:, None], np.zeros((STEPS, CHANNELS))
    beat = rng.uniform(*BEAT)
    start = -beat * rng.uniform(1.0, 2.0)
    while start < STEPS + beat:
        own = beat * rng.lognormal(0.0, 0.05)
        middles = start + own * (np.arange(CHANNELS) + rng.normal(0.0, 0.2, CHANNELS)) / CHANNELS
        series[:, order] += rng.lognormal(0.0, 0.3) * np.exp(-0.5 * ((steps - middles) / (PULSE * own)) ** 2)
        start += own
    series *= rng.lognormal(0.0, 0.2, CHANNELS)
    series += 0.02 * np.cumsum(rng.standard_normal((STEPS, CHANNELS)), axis=0)
    series += NOISE * rng.standard_normal((STEPS, CHANNELS)) + 0.1 * rng.standard_normal(CHANNELS)
    return series.astype(np.float32)


def travelling_pulses_table(split: str) -> Table:
    """Return the series of a split as a table."""
    size = SERIES[split]
    names = [f"travelling pulses {split} {row}" for row in range(size)]
    values = LazySequence(size, lambda row: travelling_pulses(split, row))
    return Table(
        MemoryRows(values, names), np.arange(size, dtype=np.int64) % len(CHANNEL_ORDERS), None, list(CHANNEL_ORDERS)
    )
