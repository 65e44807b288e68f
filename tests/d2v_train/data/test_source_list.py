"""Several sources of one modality: options, ratios, epochs, ids, groups."""

from collections import Counter

import numpy as np
import pytest

from d2v_train.batching.order import Mixture
from d2v_train.data.source_list import JoinedDataset, names_of, open_entries, read_entries
from d2v_train.inputs.audio import AudioTransform
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options, load_options


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


def test_entries_are_names_or_mappings_and_take_the_section_s_arguments():
    value = load_options("tiny_fsdd", ["data.audio=[{source: a/b, ratio: 2, exclude_groups: null}, c]"]).data.audio
    entries = read_entries("data.audio", value, {"exclude_groups": ["george"]})
    assert [entry.source for entry in entries] == ["a/b", "c"] and [entry.ratio for entry in entries] == [2, None]
    assert [entry.exclude_groups for entry in entries] == [None, ["george"]]
    assert names_of(read_entries("data.audio", ["x/a.parquet", "y/a", None])) == ["a", "a#2", "builtin"]


@pytest.mark.parametrize(
    "value, message",
    [
        ([{"sorce": "a"}], r"data.audio\[0\].sorce'.*data.audio\[0\].source'"),
        (["a", {"source": "b", "ratio": 0}], r"data.audio\[1\].ratio is 0"),
        ([{"source": "b", "ratio": "much"}], "'much'"),
        ([{"source": ["b"]}], r"source.*\['b'\]"),
        ([], "data.audio"),
        ("", "data.audio"),
        (["a", " "], r"data.audio\[1\] is empty"),
    ],
)
def test_wrong_entries_are_sentences(value, message):
    with pytest.raises(OptionError, match=message):
        read_entries("data.audio", value)


def test_an_entry_of_another_kind_is_refused_with_the_options():
    with pytest.raises(OptionError, match=r"data.audio.*\[1\]"):
        build_options({"output_dir": "run", "audio": {}, "data": {"audio": [3.5, [1]]}})


def test_records_have_unique_ids_and_groups_of_two_sources_do_not_mix():
    entries = read_entries("data.audio", ["builtin", {"split": "test"}], {"max_samples": 12})
    joined = open_entries("audio", entries)
    for part in joined.parts:
        part.groups = ["the same name"] * len(part)
    records = [joined[index] for index in range(len(joined))]
    assert [record["id"] for record in records] == list(range(24))
    with pytest.raises(IndexError, match="sample 24"):
        joined[24]

    transform = AudioTransform(crop_seconds=60.0, concat_group=True)
    parts = [transform.prepare(part) for part in joined.parts]
    drawn = transform(JoinedDataset(parts, joined.names, joined.ratios)[15], seed=1)
    alone, other = (transform(part[3], seed=1) for part in reversed(parts))
    assert drawn["id"] == 15 and (drawn["input_values"] == alone["input_values"]).all()
    assert (drawn["input_values"] != other["input_values"]).any()


def test_a_joined_data_set_counts_its_parts():
    assert len(JoinedDataset([range(3), range(4)], ["a", "b"], [None, None])) == 7
