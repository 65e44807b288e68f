"""Rows of parquet files: those of the data set, read in row groups, from the disk or over the network."""

import pickle

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamed_data import steps_of, write_sources

from d2v_train.batching.lengths import sample_counts
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import ColumnNotFoundError, Table


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
    assert pickle.loads(pickle.dumps(rows))[13] == rows[13]
    with pytest.raises(IndexError):
        rows[29]


def write_files(folder, count=3, rows=20, **options):
    files = []
    for number in range(count):
        cells = [f"{number} {row} ".encode() * 40 for row in range(rows)]
        table = pa.table({"image": cells, "label": list(range(rows))})
        files.append(folder / f"{number}.parquet")
        pq.write_table(table, files[-1], row_group_size=5, **({"compression": "zstd"} | options))
    return files


@pytest.mark.parametrize("content", [b"", b"PAR1broken", b"rubbish" * 100, "cut off", "footer"])
def test_a_file_without_a_footer_is_one_bad_row_with_its_name(tmp_path, content, caplog):
    files = write_files(tmp_path)
    whole = files[1].read_bytes()
    files[1].write_bytes(
        {"cut off": whole[:-50], "footer": whole[:-300] + b"\xff" * 292 + whole[-8:]}.get(content, content)
    )
    rows = ParquetRows(files)
    rows.columns = ["image"]
    assert len(rows) == 41 and "1.parquet" in caplog.text and list(rows.problems()) == [20]
    assert rows[21] == b"2 0 " * 40 and rows.column("label")[19:22] == [19, None, 0]
    for _ in range(2):
        with pytest.raises(BadSample, match="unreadable: .*1.parquet"):
            rows[20]


def test_a_torn_row_group_is_its_rows(tmp_path, caplog):
    files = write_files(tmp_path)
    content = bytearray(files[1].read_bytes())
    chunk = pq.read_metadata(files[1]).row_group(1).column(0)
    start = min(filter(None, (chunk.data_page_offset, chunk.dictionary_page_offset)))
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    files[1].write_bytes(content)
    rows = ParquetRows(files)
    rows.columns = ["image"]
    assert len(rows) == 60 and rows[24] and rows[30]
    for row in (25, 29):
        with pytest.raises(BadSample, match="1.parquet, row group 1"):
            rows[row]
    assert rows.column("label")[25:30] == [5, 6, 7, 8, 9], "the other column of the group is whole"
    assert list(rows.problems()) == [25, 26, 27, 28, 29]


def test_flipped_bits_are_noticed_where_the_file_has_checksums(tmp_path):
    files = write_files(tmp_path, 1, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(files[0].read_bytes())
    content[content.index(b"0 7 0 7 ")] ^= 1
    files[0].write_bytes(content)
    rows = ParquetRows(files)
    rows.columns = ["image"]
    with pytest.raises(BadSample, match="0.parquet, row group 1"):
        rows[7]


def test_no_file_at_all_that_can_be_read_is_an_error(tmp_path):
    files = write_files(tmp_path, 2)
    for file in files:
        file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="0.parquet.*incomplete"):
        ParquetRows(files)


def test_files_need_the_same_columns_only_where_they_are_needed(tmp_path):
    pq.write_table(pa.table({"image": [b"a"], "x": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"label": pa.array([2], pa.int32()), "image": [b"b"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"image": pa.array([b"c"], pa.large_binary()), "label": [3]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"image": pa.nulls(1), "label": pa.nulls(1)}), tmp_path / "3.parquet")
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "x": pa.array([], pa.int8())}), tmp_path / "4.parquet"
    )
    rows = ParquetRows(sorted(tmp_path.iterdir()))
    rows.columns = ["image"]
    assert list(rows) == [b"a", b"b", b"c", None] and rows.column("label") == [None, 2, 3, None]
    rows.check(["image"])
    with pytest.raises(ColumnNotFoundError, match="'x' in .*1.parquet"):
        rows.check(["x"])
    assert rows.arrow_schema(["image"]).field("image").type == pa.large_binary()


def test_types_without_anything_in_common_are_refused(tmp_path):
    pq.write_table(pa.table({"image": [b"a"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"image": [{"bytes": b"a"}]}), tmp_path / "1.parquet")
    with pytest.raises(ValueError, match="1.parquet are of other types"):
        ParquetRows(sorted(tmp_path.iterdir())).arrow_schema(["image"])
