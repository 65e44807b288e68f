"""A turn is cut into micro-batches: even, with little padding, equally many for every process."""

import itertools

import numpy as np
import pytest

from d2v_train.batching.cutting import even_bounds, padded_bounds, padded_sizes, pass_bounds


def random_rows(count):
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield np.sort(rng.integers(1, 60, size=rng.integers(1, 40))), rng


def test_even_pieces_are_never_empty_and_miss_their_share_by_one_sample_at_most():
    compared = 0
    for lengths, rng in random_rows(200):
        pieces = int(rng.integers(1, len(lengths) + 1))
        bounds = even_bounds(lengths, pieces)
        assert len(bounds) == pieces + 1 and bounds[0] == 0 and bounds[-1] == len(lengths)
        assert (np.diff(bounds) > 0).all()
        sums = np.add.reduceat(lengths, bounds[:-1])
        if pieces * 2 * lengths.max() < lengths.sum():
            compared += 1
            assert abs(sums - lengths.sum() / pieces).max() <= lengths.max()
    assert compared >= 10


def test_padded_pieces_are_the_best_that_there_are():
    for lengths, rng in random_rows(60):
        lengths = lengths[:9]
        pieces = int(rng.integers(1, len(lengths) + 1))
        bounds = padded_bounds(lengths, pieces)
        assert len(bounds) == pieces + 1 and (np.diff(bounds) > 0).all()
        choices = itertools.combinations(range(1, len(lengths)), pieces - 1)
        best = min(padded_sizes(lengths, np.array([0, *inner, len(lengths)])).max() for inner in choices)
        assert padded_sizes(lengths, bounds).max() == best


@pytest.mark.parametrize(
    "limit, with_lengths", [({"most_samples": 3}, True), ({"most_samples": 3}, False), ({"most_tokens": 130}, True)]
)
@pytest.mark.parametrize("processes", [1, 3])
def test_passes_follow_from_the_limit_and_are_as_many_for_every_process(limit, with_lengths, processes):
    limited = 0
    for lengths, _ in random_rows(60):
        if len(lengths) < processes:
            continue
        bounds = pass_bounds(len(lengths), lengths if with_lengths else None, processes, **limit)
        passes, rest = divmod(len(bounds) - 1, processes)
        assert rest == 0 and (np.diff(bounds) > 0).all() and bounds[-1] == len(lengths)
        if passes < len(lengths) // processes:
            limited += 1
            assert np.diff(bounds).max() <= limit.get("most_samples", 99)
            assert padded_sizes(lengths, bounds).max() <= limit.get("most_tokens", 10**6)
    assert limited >= 10
