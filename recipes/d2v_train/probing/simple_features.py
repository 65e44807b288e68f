"""Features without learning as a baseline for learned ones: pixels, MFCC statistics, TF-IDF, statistics of channels.

The MFCC follow Davis and Mermelstein (1980) with the choices common in toolkits: pre-emphasis .97, Hamming windows of
25 ms every 10 ms, power spectrum, 40 triangular filters evenly spaced on the mel scale 2595 log10(1 + f / 700) between
20 Hz and half the sampling rate, natural logarithm, orthonormal DCT-II, the first 13 coefficients (the 0th, loudness,
included).

Legend: F frames, S samples of a waveform, N recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import sparse
from scipy.fft import dct
from scipy.signal import savgol_filter
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers.audio_utils import mel_filter_bank

from d2v_train.data.tables import SAMPLING_RATE


WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
PRE_EMPHASIS = 0.97
NUM_FILTERS = 40
NUM_COEFFICIENTS = 13
LOWEST_FREQUENCY = 20.0
LOG_FLOOR = 1e-10
"""Lower bound of the power, which keeps the logarithm finite."""
DELTA_REACH = 2
"""Frames on either side in the regression of the slope of a coefficient."""
MAX_PIXEL_SIDE = 32
"""Larger images are reduced to this side: a linear model on more pixels takes minutes and is not more accurate."""
MAX_TERMS = 20000
NUM_BANDS = 12
"""Bands of the spectrum of a channel, of equal width in the logarithm of the frequency."""


def pixel_features(image, *, size: int, channels: int = 3) -> np.ndarray:
    """Flatten a resized image.

    Args:
        image: PIL image.
        size: Image size of the model in pixels; sides above 32 become 32.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (side * side * channels,) float32 in [0, 1].

    Raises:
        ValueError: If `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"Pixel features cannot have {channels} channels; give 1 (grey) or 3 (RGB).")
    side = min(size, MAX_PIXEL_SIDE)
    # 2 is PIL's bilinear filter, which averages over all source pixels on reduction.
    pixels = image.convert("L" if channels == 1 else "RGB").resize((side, side), 2)
    return np.asarray(pixels, dtype=np.float32).ravel() / 255.0


@lru_cache(maxsize=8)
def mel_filters(sampling_rate: int = SAMPLING_RATE, fft_size: int = 512) -> np.ndarray:
    """Return triangular filters of height 1 whose corners are evenly spaced in mel, (fft_size // 2 + 1, 40)."""
    bins, scale = fft_size // 2 + 1, {"mel_scale": "htk", "triangularize_in_mel_space": True}
    return mel_filter_bank(bins, NUM_FILTERS, LOWEST_FREQUENCY, sampling_rate / 2, sampling_rate, **scale)


def log_mel(waveform, *, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Return the log power in 40 mel filters.

    Args:
        waveform: (S,) mono samples in [-1, 1], padded with zeros to at least one window.
        sampling_rate: Sampling rate in Hz.

    Returns:
        (F, 40) natural logarithms, F = 1 + (S - window) // hop.

    Raises:
        ValueError: If the waveform is empty or not one-dimensional.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    if waveform.ndim != 1 or waveform.size == 0:
        raise ValueError(f"A waveform must be a non-empty vector of samples; this one has shape {waveform.shape}.")
    window = round(WINDOW_SECONDS * sampling_rate)
    hop = round(HOP_SECONDS * sampling_rate)
    emphasised = np.append(waveform[0], waveform[1:] - PRE_EMPHASIS * waveform[:-1])
    emphasised = np.pad(emphasised, (0, max(0, window - len(emphasised))))
    frames = np.lib.stride_tricks.sliding_window_view(emphasised, window)[::hop] * np.hamming(window)
    fft_size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames, fft_size)) ** 2 / fft_size
    return np.log(np.maximum(power @ mel_filters(sampling_rate, fft_size), LOG_FLOOR))


def mfcc(waveform, *, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Return mel-frequency cepstral coefficients (F, 13); arguments and errors as in `log_mel`."""
    return dct(log_mel(waveform, sampling_rate=sampling_rate), norm="ortho")[:, :NUM_COEFFICIENTS]


def deltas(coefficients: np.ndarray) -> np.ndarray:
    """Return the slopes (F, C) of coefficients (F, C) by regression over two frames either side, edges repeated."""
    return savgol_filter(coefficients, 2 * DELTA_REACH + 1, polyorder=1, deriv=1, axis=0, mode="nearest")


def mfcc_features(waveform, *, sampling_rate: int = SAMPLING_RATE, with_deltas: bool = False) -> np.ndarray:
    """Return mean and standard deviation of the MFCC over time.

    Args:
        waveform: (S,) mono samples.
        sampling_rate: Sampling rate in Hz.
        with_deltas: Whether to add the same statistics of the slopes.

    Returns:
        (26,) float32, or (52,) with deltas.
    """
    coefficients = mfcc(waveform, sampling_rate=sampling_rate)
    if with_deltas:
        coefficients = np.concatenate([coefficients, deltas(coefficients)], axis=1)
    return np.concatenate([coefficients.mean(axis=0), coefficients.std(axis=0)]).astype(np.float32)


def tfidf_features(train_texts: Iterable[str], test_texts: Iterable[str]) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return TF-IDF of words and pairs of words, with vocabulary and weights from the training texts alone.

    Returns:
        Two sparse matrices with rows of unit norm and at most 20,000 columns.

    Raises:
        ValueError: If the training texts contain no word.
    """
    # Single characters count as words too, for languages without spaces.
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_TERMS, token_pattern=r"\w+")
    try:
        train = vectoriser.fit_transform(train_texts)
    except ValueError as error:
        raise ValueError(f"TF-IDF found no word in the training texts ({error}); check the text column.") from error
    return sparse.csr_array(train), sparse.csr_array(vectoriser.transform(test_texts))


def channel_features(array: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation and spectrum of each channel of an array.

    Args:
        array: (sides ..., C).

    Returns:
        (C * (2 + `NUM_BANDS` * n),) float32: of each channel the mean, the logarithm of the standard deviation, and
        for each of the n sides the logarithms of the shares of its power in `NUM_BANDS` bands, from one cycle per side
        to half a cycle per place. A band without a frequency takes the share of the one below it.

    Raises:
        ValueError: If the array is empty or has no channels.
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"An array must have sides and channels; this one has shape {array.shape}.")
    sides = tuple(range(array.ndim - 1))
    mean, deviation = array.mean(axis=sides), array.std(axis=sides)
    parts = [mean, np.log(np.maximum(deviation, LOG_FLOOR))]
    for side in sides:
        power = np.abs(np.fft.rfft(array - mean, axis=side)) ** 2
        power = np.moveaxis(power, side, 0).mean(axis=tuple(range(1, array.ndim - 1)))[1:]  # (frequencies, C)
        parts += list(_band_shares(power))
    return np.stack(parts, axis=-1).ravel().astype(np.float32)


def _band_shares(power: np.ndarray) -> np.ndarray:
    """Return the logarithms (`NUM_BANDS`, C) of the shares of power (frequencies, C) in each band."""
    if len(power) == 0:
        return np.zeros((NUM_BANDS, power.shape[1]))
    edges = np.unique(np.round(np.geomspace(1, len(power) + 1, NUM_BANDS + 1)).astype(int)) - 1
    shares = np.add.reduceat(power, edges[:-1], axis=0) / np.maximum(power.sum(axis=0), LOG_FLOOR)
    shares = np.log(np.maximum(shares, LOG_FLOOR))
    return shares[np.minimum(np.arange(NUM_BANDS), len(shares) - 1)]


def _pixels(train: Iterable[dict], test: Iterable[dict], settings: Any) -> dict[str, tuple]:
    shape = {"size": settings.image_size, "channels": settings.num_channels}
    return {"pixels": tuple(np.stack([pixel_features(r["image"], **shape) for r in part]) for part in (train, test))}


def _mfcc(train: Iterable[dict], test: Iterable[dict], settings: Any) -> dict[str, tuple]:
    both = tuple(np.stack([mfcc_features(r["audio"], with_deltas=True) for r in part]) for part in (train, test))
    # Columns are mean and std of [coefficients, slopes]; `plain` are those of the coefficients alone.
    plain = [i for i in range(4 * NUM_COEFFICIENTS) if (i // NUM_COEFFICIENTS) % 2 == 0]
    return {"mfcc": tuple(part[:, plain] for part in both), "mfcc_deltas": both}


def _tfidf(train: Iterable[dict], test: Iterable[dict], settings: Any) -> dict[str, tuple]:
    texts = ([" ".join((r["text"], r.get("text_pair") or "")) for r in part] for part in (train, test))
    return {"tfidf": tfidf_features(*texts)}


def _channels(train: Iterable[dict], test: Iterable[dict], settings: Any) -> dict[str, tuple]:
    return {"channels": tuple(np.stack([channel_features(r["array"]) for r in part]) for part in (train, test))}


SIMPLE_FEATURES: dict[str, Callable[..., dict[str, tuple]]] = {
    "text": _tfidf,
    "vision": _pixels,
    "audio": _mfcc,
    "arrays": _channels,
}


def simple_features(modality: str, train: Iterable[dict], test: Iterable[dict], settings: Any) -> dict[str, tuple]:
    """Compute all simple features of a modality.

    Args:
        modality: A key of `SIMPLE_FEATURES`.
        train, test: Raw records with "image", "audio" (16 kHz), "array" or "text"; each is read once.
        settings: Configuration of the modality, for the size and the channels of images.

    Returns:
        Name of the feature -> (training matrix, test matrix): "pixels"; "mfcc" and "mfcc_deltas"; "channels";
        or "tfidf".
    """
    return SIMPLE_FEATURES[modality](train, test, settings)
