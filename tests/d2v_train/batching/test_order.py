"""The order of the samples and of the modalities is a function of seed and position."""

from collections import Counter

import numpy as np
import pytest

from d2v_train.batching.order import Mixture, spread_pattern, stable_seed


@pytest.mark.parametrize(
    "ratios, counts",
    [
        ({"a": 1.0}, {"a": 1}),
        ({"a": 2, "b": 1}, {"a": 2, "b": 1}),
        ({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 5, "b": 3, "c": 2}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_pattern_keeps_ratios_and_is_shortest(ratios, counts):
    assert Counter(spread_pattern(ratios)) == counts


def test_pattern_is_spread_evenly():
    pattern = spread_pattern({"a": 6, "b": 2}) * 2
    places = [place for place, name in enumerate(pattern) if name == "b"]
    assert {after - before for before, after in zip(places[:-1], places[1:], strict=True)} == {4}


def test_rare_modality_is_never_lost():
    assert Counter(spread_pattern({"a": 1e6, "b": 1}))["b"] == 1


def test_stable_seed_is_stable():
    assert stable_seed(1, "a", 2) == 4316425502212999783 != stable_seed(1, "a", 3)


def sources_of(mixture, first, count):
    ends = mixture.offsets[1:]
    return [int(np.searchsorted(ends, key.index, side="right")) for key in mixture.keys(first, count)]


def test_a_source_alone_keeps_its_order_and_so_does_the_first_of_several():
    alone, both = Mixture([7], None, 3, "audio"), Mixture([7, 5], [1, 1], 3, "audio")
    first = [key for key in both.keys(0, 28) if key.index < 7]
    assert first == alone.keys(0, 14)


def test_ratios_decide_how_often_a_source_is_taken_in_every_stretch_and_each_has_its_own_epochs():
    mixture = Mixture([4, 10], [3, 1], 0, "audio")
    assert all(Counter(sources_of(mixture, first, 8)) == {0: 6, 1: 2} for first in (0, 8, 4000))
    keys = mixture.keys(0, 40)
    small = [key for key in keys if key.index < 4]
    assert [key.epoch for key in small] == [place // 4 for place in range(30)]
    assert all(sorted(key.index for key in small[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 28, 4))
    assert {key.epoch for key in keys if key.index >= 4} == {0} and mixture.epochs(40) == [7.5, 1.0]


def test_without_ratios_sources_are_taken_in_proportion_to_their_sizes():
    mixture = Mixture([30, 3], None, 0, "audio")
    assert sorted(key.index for key in mixture.keys(0, 33)) == list(range(33)) and mixture.epochs(66) == [2.0, 2.0]
    assert mixture.epochs(33 * 10**9) == [10**9, 10**9]
    assert Counter(sources_of(Mixture([30, 3], [None, 4], 0, "audio"), 0, 5)) == {0: 1, 1: 4}


def test_any_position_is_known_without_those_before():
    mixture = Mixture([30, 3, 11], [1, 2.5, None], 9, "text")
    assert mixture.keys(0, 500)[200:] == Mixture([30, 3, 11], [1, 2.5, None], 9, "text").keys(200, 300)


def test_an_empty_source_is_named():
    with pytest.raises(ValueError, match="Source 2.*audio"):
        Mixture([3, 0], None, 0, "audio")


def test_blocks_are_shuffled_and_so_are_the_samples_of_each():
    order = Mixture([29], None, 3, "audio", block=10)
    epochs = [[key.index for key in order.keys(29 * epoch, 29)] for epoch in range(12)]
    starts = set()
    for indices in epochs:
        assert sorted(indices) == list(range(29))
        blocks = [index // 10 for index in indices]
        changes = sum(before != after for before, after in zip(blocks, blocks[1:], strict=False))
        assert changes == 2, "one block after another"
        starts.add(blocks[0])
    assert starts == {0, 1, 2} and len(set(map(tuple, epochs))) == 12
    assert order.keys(40, 30) == order.keys(0, 70)[40:]
    assert Mixture([29], None, 3, "audio", block=29).keys(0, 60) == Mixture([29], None, 3, "audio").keys(0, 60)
