"""The built-in series: deterministic, and their classes lie in relations between channels alone."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from d2v_train.data.builtin_series import (
    BANDS,
    CHANNELS,
    CLASSES,
    LAG,
    PAIRINGS,
    SIZES,
    STEPS,
    coupled_series,
    coupled_series_table,
)
from d2v_train.data.records import open_dataset
from d2v_train.probing.simple_features import channel_features


def test_pairings_use_every_channel_once():
    for pairs in PAIRINGS.values():
        assert sorted(np.ravel(pairs)) == list(range(CHANNELS))
    assert len({frozenset(pairs) for pairs in map(tuple, PAIRINGS.values())}) == len(PAIRINGS)


def test_a_series_is_a_function_of_split_and_row():
    assert np.array_equal(coupled_series("train", 5), coupled_series("train", 5))
    assert not np.array_equal(coupled_series("train", 5), coupled_series("test", 5))
    assert coupled_series("test", 3).shape == (STEPS, CHANNELS) and coupled_series("test", 3).dtype == np.float32


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_table_has_balanced_classes(split):
    table = coupled_series_table(split)
    assert len(table.values) == SIZES[split] and table.label_names == CLASSES
    assert set(np.bincount(table.labels)) == {SIZES[split] // len(CLASSES)}
    dataset = open_dataset("arrays", "builtin", split, num_dims=1, num_channels=CHANNELS)
    assert np.array_equal(dataset[9]["array"], coupled_series(split, 9)) and dataset[9]["label"] == 1


def coherence(series: np.ndarray) -> np.ndarray:
    """Return how strongly each pair of channels is related in each band, whatever the lag."""
    spectrum = np.fft.rfft((series - series.mean(axis=0)) / series.std(axis=0), axis=0)
    found = []
    for middle in BANDS.values():
        part = spectrum[round(0.8 * middle * STEPS) : round(1.2 * middle * STEPS)]
        cross = part.T.conj() @ part
        power = np.sqrt(np.real(np.diag(cross)))
        found.append((np.abs(cross) / power[:, None] / power)[np.triu_indices(CHANNELS, 1)])
    return np.concatenate(found)


def accuracy(features, labels) -> float:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return classifier.fit(features[:640], labels[:640]).score(features[640:], labels[640:])


def test_single_channels_tell_nothing_and_relations_tell_all():
    series, labels = [coupled_series("train", row) for row in range(960)], np.arange(960) % len(CLASSES)
    chance = 1 / len(CLASSES)
    assert accuracy(np.stack([channel_features(each) for each in series]), labels) < chance + 0.06
    assert accuracy(np.stack([coherence(each) for each in series]), labels) > 0.98


def test_the_second_channel_follows_the_first():
    """Summed over many series, the correlation of a coupled pair is largest at the lag."""
    first, second = PAIRINGS["neighbours"][0]
    rows = [row for row in range(0, 800, len(CLASSES))]  # the first class: neighbours, slow
    lags = range(-8, 9)
    total = np.zeros(len(lags))
    for row in rows:
        one, other = (coupled_series("train", row)[:, channel] for channel in (first, second))
        one, other = one - one.mean(), other - other.mean()
        total += [np.dot(one[20 : STEPS - 20], other[20 + lag : STEPS - 20 + lag]) for lag in lags]
    assert list(lags)[int(np.argmax(total))] == LAG
