"""Features of examples that no network has seen: what aligns here aligns without learning.

Pictures: pixels and a histogram of colours. Recordings: statistics of MFCC, and log-mel energies at 16 points of time.
Sentences: the words around the word, and the letters of the word, as pairs and triples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.extraction import Example, LayerFeatures, examples_of, read_example
from d2v_train.alignment.sentences import span_of
from d2v_train.data.bad_samples import BadSample
from d2v_train.probing.simple_features import log_mel, mfcc_features, pixel_features


logger = logging.getLogger(__name__)

PIXEL_SIDE = 16
COLOUR_LEVELS = 4
POINTS_OF_TIME = 16
MOST_WORDS = 4000


def colour_histogram(image) -> np.ndarray:
    """Return the share of pixels in each of 4 x 4 x 4 colours, (64,) float32; `image` is a PIL image."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.int64).reshape(-1, 3) * COLOUR_LEVELS // 256
    index = pixels @ np.array([COLOUR_LEVELS**2, COLOUR_LEVELS, 1])
    return np.bincount(index, minlength=COLOUR_LEVELS**3).astype(np.float32) / len(index)


def log_mel_profile(waveform: np.ndarray) -> np.ndarray:
    """Return log-mel energies at 16 evenly spaced points of time, (640,) float32."""
    frames = log_mel(waveform)
    at = np.linspace(0, len(frames) - 1, POINTS_OF_TIME)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(frames) - 1)
    share = (at - low)[:, None]
    return ((1 - share) * frames[low] + share * frames[high]).astype(np.float32).ravel()


def _of_pictures(records: Sequence[dict], examples: Sequence[Example]) -> dict[str, np.ndarray]:
    return {
        "pixels": np.stack([pixel_features(record["image"], size=PIXEL_SIDE) for record in records]),
        "colours": np.stack([colour_histogram(record["image"]) for record in records]),
    }


def _of_recordings(records: Sequence[dict], examples: Sequence[Example]) -> dict[str, np.ndarray]:
    return {
        "mfcc": np.stack([mfcc_features(record["audio"], with_deltas=True) for record in records]),
        "log-mel": np.stack([log_mel_profile(record["audio"]) for record in records]),
    }


def _of_sentences(records: Sequence[dict], examples: Sequence[Example]) -> dict[str, np.ndarray]:
    around, words = [], []
    for example in examples:
        start, end = span_of(example.value, example.word) or (0, 0)
        around.append(example.value[:start] + " " + example.value[end:])
        words.append(example.word)
    context = TfidfVectorizer(sublinear_tf=True, max_features=MOST_WORDS, token_pattern=r"\w+")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3))
    return {
        "context words": context.fit_transform(around).toarray().astype(np.float32),
        "letters": letters.fit_transform(words).toarray().astype(np.float32),
    }


HAND_MADE: dict[str, Callable[..., dict[str, np.ndarray]]] = {
    "vision": _of_pictures,
    "audio": _of_recordings,
    "text": _of_sentences,
}


def hand_made_features(table: ConceptTable, modality: str) -> LayerFeatures:
    """Return the hand-made features of all examples of a modality; each kind is a layer."""
    names, examples = examples_of(table, modality)
    records, read, bad = [], [], []
    for example in examples:
        try:
            records.append(read_example(modality, example))
            read.append(example)
        except (BadSample, OSError) as error:
            bad.append(f"{example.label}: {error}")
    if bad:
        logger.warning("%s: left out %d unreadable examples: %s", modality, len(bad), "; ".join(bad[:5]))
    features = HAND_MADE[modality](records, read)
    return LayerFeatures(
        modality=modality,
        names=names,
        layers=list(features),
        values=list(features.values()),
        concepts=np.array([example.concept for example in read]),
        labels=[example.label for example in read],
        bad=bad,
        # Standardised counts would give a word that occurs once the weight of all others.
        standardised=modality != "text",
    )
