"""The built-in series: deterministic, and their classes lie in relations between channels alone."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from d2v_train.data.builtin_series import (
    BEAT,
    CHANNEL_ORDERS,
    CHANNELS,
    SERIES,
    STEPS,
    travelling_pulses,
    travelling_pulses_table,
)
from d2v_train.data.records import open_dataset
from d2v_train.probing.simple_features import channel_features


def test_orders_visit_every_channel_and_share_no_neighbours():
    pairs = []
    for order in CHANNEL_ORDERS.values():
        assert sorted(order) == list(range(CHANNELS))
        pairs += [frozenset(pair) for pair in zip(order, order[1:] + order[:1], strict=True)]
    assert len(set(pairs)) == len(pairs) == len(CHANNEL_ORDERS) * CHANNELS


def test_a_series_is_a_function_of_split_and_row():
    assert np.array_equal(travelling_pulses("train", 5), travelling_pulses("train", 5))
    assert not np.array_equal(travelling_pulses("train", 5), travelling_pulses("test", 5))
    assert travelling_pulses("test", 3).shape == (STEPS, CHANNELS)
    assert travelling_pulses("test", 3).dtype == np.float32


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_table_has_balanced_classes(split):
    table = travelling_pulses_table(split)
    assert len(table.values) == SERIES[split] and table.label_names == list(CHANNEL_ORDERS)
    assert set(np.bincount(table.labels)) == {SERIES[split] // len(CHANNEL_ORDERS)}
    dataset = open_dataset("arrays", "builtin", split, num_dims=1, num_channels=CHANNELS)
    assert np.array_equal(dataset[9]["array"], travelling_pulses(split, 9)) and dataset[9]["label"] == 1


def follows(series: np.ndarray) -> np.ndarray:
    """Return the covariance of every two channels, the second one a twelfth of a beat later."""
    centred = series - series.mean(axis=0)
    lag = round(sum(BEAT) / 2 / CHANNELS)
    return (centred[:-lag].T @ centred[lag:]).ravel()


def accuracy(features, labels) -> float:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    return classifier.fit(features[:640], labels[:640]).score(features[640:], labels[640:])


def test_single_channels_tell_nothing_and_relations_tell_all():
    series, labels = [travelling_pulses("train", row) for row in range(960)], np.arange(960) % len(CHANNEL_ORDERS)
    assert accuracy(np.stack([channel_features(each) for each in series]), labels) < 1 / len(CHANNEL_ORDERS) + 0.08
    assert accuracy(np.stack([follows(each) for each in series]), labels) > 0.97
