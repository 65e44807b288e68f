"""Rows of text files and JSON lines: the documents of the data set, read in place."""

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
