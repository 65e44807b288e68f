"""Several sources of one modality: options, ratios, epochs, ids, groups."""

import pytest

from d2v_train.data.source_list import (
    JoinedDataset,
    entries_of,
    names_of,
    open_entries,
    open_sources,
    read_entries,
)
from d2v_train.inputs.audio import AudioTransform
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options, load_options


def test_entries_are_names_or_mappings_and_take_the_section_s_arguments():
    value = load_options("tiny_fsdd", ["data.audio=[{source: a/b, ratio: 2, exclude_groups: null}, c]"]).data.audio
    entries = read_entries("data.audio", value, {"exclude_groups": ["george"]})
    assert [entry.source for entry in entries] == ["a/b", "c"] and [entry.ratio for entry in entries] == [2, None]
    assert [entry.exclude_groups for entry in entries] == [None, ["george"]]
    assert names_of(read_entries("data.audio", ["x/a.parquet", "y/a", "builtin"])) == ["a", "a#2", "builtin"]


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


@pytest.mark.parametrize("value", [None, [None], [{"ratio": 2}], ["a", {"split": "train"}]])
def test_built_in_data_is_never_read_unasked(value):
    with pytest.raises(OptionError, match="names no data.*=builtin"):
        read_entries("data.audio", value)


def test_records_have_unique_ids_and_groups_of_two_sources_do_not_mix():
    entries = read_entries("data.audio", ["builtin", {"source": "builtin", "split": "test"}], {"max_samples": 12})
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


@pytest.mark.parametrize("labels", ['["x"]', '{"a": 1}', "0.5", '"a|b"'])
def test_pretraining_never_reads_labels_but_probes_do(tmp_path, labels):
    rows = ['{"sentence": "a", "label": 1}', f'{{"sentence": "b", "label": {labels}}}', '{"sentence": "c"}']
    (tmp_path / "a.json").write_text(f"[{','.join(rows)}]")
    options = load_options("tiny_text", [f"data.text={tmp_path / 'a.json'}"])
    assert open_sources(options)["text"].labels is None
    entry = entries_of(options, "text")[0]
    assert entry.read_labels, "what an online probe opens with"
    options = load_options("tiny_text", [f"data.text={tmp_path / 'a.json'}", "text.dataset={read_labels: true}"])
    if labels == "0.5":
        assert len(open_sources(options)["text"].labels) == 3
    else:
        with pytest.raises(ValueError, match="column 'label'"):
            open_sources(options)
