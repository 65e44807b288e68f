"""Rows of text files and JSON lines: the documents of the data set, read in place."""

import json
import pickle

import pytest
from streamed_data import write_sources

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import open_dataset
from d2v_train.data.text_rows import TextRows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("data"))


def test_documents_of_text_files_and_their_names_are_those_of_the_data_set(data):
    for name in ("lines", "documents"):
        whole = open_dataset("text", str(data / name))
        stream = open_dataset("text", str(data / name), stream_block=10)
        assert isinstance(stream.table.values, TextRows) and len(stream) == len(whole)
        assert [stream.name_of(index) for index in range(len(stream))] == list(whole.table.values.names)
        assert stream.groups == whole.groups
        same = {"label": 0, "origin": None}
        assert [stream[index] | same for index in range(len(stream))] == [
            whole[index] | same for index in range(len(whole))
        ]


def test_a_broken_line_is_described_as_in_map_style_data(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n{"text": "cut sho\n{"text": "whole"}\n')
    for block in (None, 10):
        with pytest.raises(BadSample, match="Unterminated"):
            open_dataset("text", str(tmp_path), stream_block=block).load(1)


@pytest.mark.parametrize("block", [None, 10])
def test_control_characters_huge_lines_and_half_characters_are_text(tmp_path, block):
    words = "zero \x00 and \x1b and \x7f"
    (tmp_path / "a.txt").write_text(words)
    huge = json.dumps({"text": "word " * 300_000, "note": "x" * 2_000_000})
    (tmp_path / "b.jsonl").write_text(f'{{"text": "half \\ud800 of it"}}\n{huge}\n"{words[:5]}\\u0000"\n')
    dataset = open_dataset("text", str(tmp_path), stream_block=block)
    texts = [dataset[index]["text"] for index in range(len(dataset))]
    assert texts == [words, "half ? of it", ("word " * 300_000).strip(), "zero \x00"] and not dataset.bad.total


@pytest.mark.parametrize("block", [None, 10])
def test_a_word_of_ten_thousand_letters_is_noted(tmp_path, block):
    (tmp_path / "a.txt").write_text(f"a text\n\nwith {'ACGT' * 2500}\n\n{'-' * 20_000}")
    dataset = open_dataset("text", str(tmp_path), stream_block=block)
    assert all(dataset[index]["text"] for index in range(3))
    assert dataset.bad.counts() == {"long word": 1} and dataset.bad.names("long word") == ["a.txt, document 2"]


@pytest.mark.parametrize("block", [None, 10])
def test_spawned_workers_read_the_same_documents(data, block):
    for name in ("lines", "documents"):
        dataset = open_dataset("text", str(data / name), stream_block=block)
        first = dataset.load(2)["text"]
        copy = pickle.loads(pickle.dumps(dataset))
        assert copy.load(2)["text"] == first and copy.name_of(2) == dataset.name_of(2)
        assert list(copy.table.groups) == list(dataset.table.groups)


@pytest.mark.parametrize("change", [{"documents": "lines"}, {"encoding": "latin-1"}])
def test_what_is_read_changes_the_identity_of_a_stream(tmp_path, change):
    (tmp_path / "a.txt").write_text("one\n\ntwo\nthree")
    identity = open_dataset("text", str(tmp_path), stream_block=10).table.values.identity
    assert open_dataset("text", str(tmp_path), stream_block=10).table.values.identity == identity
    assert open_dataset("text", str(tmp_path), stream_block=10, **change).table.values.identity != identity
