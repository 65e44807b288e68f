"""Rows of parquet files: those of the data set, read in row groups, from the disk or over the network."""

import fsspec
import pytest
from streamed_data import steps_of, write_sources

from d2v_train.batching.lengths import sample_counts
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import Table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("data"))


def test_a_stream_reads_every_row_group_once_a_block_and_starts_anywhere(data, monkeypatch):
    steps = steps_of(data, "audio", data / "clips", True, "audio.batch_size=2", buffer=8)
    rows = steps.data["audio"].dataset.table.values
    assert isinstance(rows, ParquetRows) and len(rows) == 29
    read, original = [], rows._read
    monkeypatch.setattr(rows, "_read", lambda number, columns: read.append(number) or original(number, columns))
    steps[1000]
    assert 1 <= len(read) <= 2, "nothing before is read"
    read.clear()
    for step in range(15):
        steps[step]
    assert len(set(read)) == 9 and len(read) <= 2 * 9, "groups at the border of two blocks are read for each"
    assert rows.column("speaker") == [f"speaker {number % 3}" for number in range(29)]


def test_remote_files_are_read_where_they_are(data):
    memory = fsspec.filesystem("memory")
    for path in (data / "clips").iterdir():
        memory.pipe_file(f"/hub/{path.name}", path.read_bytes())
    rows = ParquetRows([f"memory://hub/train-{number:05}-of-00003.parquet" for number in range(3)])
    rows.columns = ["audio"]
    whole = open_dataset("audio", str(data / "clips"))
    assert rows[17] == whole.table.values[17] and rows.identity != whole.table.values.identity
    with pytest.raises(ValueError, match="downloading"):
        sample_counts(RawDataset("audio", Table(rows)))


def test_rows_of_parquet_files_are_those_of_the_data_set(data):
    rows, whole = ParquetRows(sorted(data.glob("clips/*"))), open_dataset("audio", str(data / "clips"))
    rows.columns = ["audio"]
    assert all(rows[index] == whole.table.values[index] for index in (28, 0, 13, 4))
    with pytest.raises(IndexError):
        rows[29]
