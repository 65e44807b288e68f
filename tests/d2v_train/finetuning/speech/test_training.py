"""Batches of recordings of similar lengths, in an order that seed and epoch decide."""

import numpy as np
import pytest

from d2v_train.finetuning.speech.training import LengthSampler


def lengths_of(count=103, seed=0):
    return np.random.default_rng(seed).uniform(1, 20, count)


def padding(lengths, order):
    """Share of padded batches of 8 that is padding."""
    batches = [lengths[order[i : i + 8]] for i in range(0, len(order), 8)]
    return 1 - lengths.sum() / sum(batch.max() * len(batch) for batch in batches)


def test_the_order_by_length_is_a_permutation_of_even_batches():
    lengths = lengths_of(1003)
    sampler = LengthSampler(lengths, 8, 0, lambda: 0)
    order = list(sampler)
    assert len(sampler) == 1003 and sorted(order) == list(range(1003))
    assert padding(lengths, order) < 0.05 < 0.3 < padding(lengths, np.random.default_rng(1).permutation(1003))
    # A run does not learn from long recordings first, or last.
    means = [lengths[order[i : i + 8]].mean() for i in range(0, 1003, 8)]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = lengths_of()
    orders = {
        (seed, epoch): list(LengthSampler(lengths, 8, seed, lambda e=epoch: e)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len({tuple(order) for order in orders.values()}) == 4
    assert orders[1, 1] == list(LengthSampler(lengths, 8, 1, lambda: 1))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 31, 103])
@pytest.mark.parametrize("epoch", [0, 1])
def test_every_epoch_takes_each_sample_once_however_few_there_are(count, epoch):
    lengths = lengths_of(count)
    order = list(LengthSampler(lengths, 8, 0, lambda: epoch))
    assert sorted(order) == list(range(count))
    for start in range(0, count, 8):
        assert (np.diff(lengths[order[start : start + 8]]) >= 0).all()


def test_unreadable_headers_count_as_short():
    lengths = np.array([3.0, np.nan, 2.0, 1.0])
    assert list(LengthSampler(lengths, 4, 0, lambda: 0)) == [1, 3, 2, 0]
