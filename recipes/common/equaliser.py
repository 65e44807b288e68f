"""Another microphone and another room: the spectrum of a recording, bent at random."""

from __future__ import annotations

import numpy as np

from .datasets import SAMPLING_RATE


KNOTS = 8
"""Frequencies that are given a gain of their own: few, so that a vowel remains the vowel that it is."""


class Equaliser:
    """Multiplies the spectrum of a recording by a smooth random curve.

    The curve is straight in decibels between `KNOTS` gains, which lie evenly on the mel scale from 0 Hz to half the
    sampling rate and are independent and normal.

    Args:
        decibels: standard deviation of the gains.
    """

    def __init__(self, decibels: float):
        self.decibels = decibels

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return (S,) float32, of the same length as the recording (S,)."""
        hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
        knots = np.linspace(0.0, _mel(SAMPLING_RATE / 2), KNOTS)
        gains = rng.normal(0.0, self.decibels, KNOTS)
        curve = 10 ** (np.interp(_mel(hertz), knots, gains) / 20)
        return np.fft.irfft(np.fft.rfft(samples) * curve, len(samples)).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray | float:
    """Pitch as it is heard, in mel (O'Shaughnessy's formula)."""
    return 2595 * np.log10(1 + np.asarray(hertz) / 700)
