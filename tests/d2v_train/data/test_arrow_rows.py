"""Rows of Arrow files, of folders that `save_to_disk` wrote, and copies of parquet columns."""

import pickle

import fsspec
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from d2v_train.data.arrow_rows import ArrowRows, copied
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.tables import ColumnNotFoundError
from d2v_train.support.storage import WriteError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(folder))
    return folder / "data2vec_tables"


def write_stream(path, rows=20, batch=5):
    table = pa.table({"text": [f"{path.stem} {row}" for row in range(rows)], "label": list(range(rows))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


@pytest.mark.parametrize("kind", ["stream", "file", "compressed"])
def test_both_formats_are_read(tmp_path, kind):
    path = write_stream(tmp_path / "a.arrow")
    if kind != "stream":
        table = pa.ipc.open_stream(path.read_bytes()).read_all()
        compression = "lz4" if kind == "compressed" else "uncompressed"
        pyarrow.feather.write_feather(table, path, compression=compression, chunksize=5)
    rows = ArrowRows([path, path])
    rows.columns = ["text", "label"]
    assert len(rows) == 40 and rows[0] == ("a 0", 0) and rows[39] == ("a 19", 19) and not rows.problems()
    assert pickle.loads(pickle.dumps(rows))[7] == ("a 7", 7) and rows.column("label")[18:22] == [18, 19, 0, 1]
    fsspec.filesystem("memory").pipe_file("/arrow/a.arrow", path.read_bytes())
    assert ArrowRows(["memory://arrow/a.arrow"]).column("label") == list(range(20))


@pytest.mark.parametrize("content, kept", [(b"", 0), (b"rubbish" * 20, 0), ("cut", 15), (None, 0)])
def test_a_damaged_file_ends_with_one_bad_row(tmp_path, content, kept, caplog):
    files = [write_stream(tmp_path / f"{name}.arrow") for name in "abc"]
    if content is None:
        files[1].unlink()
    else:
        files[1].write_bytes(files[1].read_bytes()[:-80] if content == "cut" else content)
    rows = ArrowRows(files)
    rows.columns = ["text"]
    bad = 20 + kept
    assert len(rows) == 41 + kept and list(rows.problems()) == [bad] and "b.arrow" in caplog.text
    assert rows[bad - 1].startswith("b" if kept else "a") and rows[bad + 1] == "c 0"
    with pytest.raises(BadSample, match="b.arrow"):
        rows[bad]
    assert rows.column("label")[bad] is None


def test_only_damaged_files_are_an_error(tmp_path):
    (tmp_path / "a.arrow").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="a.arrow.*incomplete"):
        ArrowRows([tmp_path / "a.arrow"])


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(ColumnNotFoundError, match="'image' in .*a.arrow. It has: text, label"):
        ArrowRows([write_stream(tmp_path / "a.arrow")]).check(["image"])


def write_parquet(path, values):
    pq.write_table(pa.table({"image": values, "label": ["x"] * len(values)}), path, row_group_size=2)
    return path


def test_a_copy_is_written_once_and_again_when_a_file_changes(tmp_path, cache):
    path = write_parquet(tmp_path / "a.parquet", [b"1", b"2", b"3"])
    rows = copied(ParquetRows([path]), ["image"], "it")
    rows.columns = ["image"]
    (file,) = cache.glob("*.arrow")
    written = file.stat().st_mtime_ns
    assert list(rows) == [b"1", b"2", b"3"] and list(rows.schema) == ["image"] and rows.folder(0) == str(tmp_path)
    copied(ParquetRows([path]), ["image"], "it")
    assert file.stat().st_mtime_ns == written
    write_parquet(path, [b"4"])
    again = copied(ParquetRows([path]), ["image"], "it")
    again.columns = ["image"]
    assert list(again) == [b"4"] and again.identity != rows.identity and len(list(cache.glob("*.arrow"))) == 2


def test_a_copy_keeps_what_cannot_be_read_in_its_place(tmp_path):
    files = [write_parquet(tmp_path / f"{number}.parquet", [b"1", b"2", b"3"]) for number in range(3)]
    files[1].write_bytes(b"PAR1")
    rows = copied(ParquetRows(files), ["image"], "it")
    rows.columns = ["image"]
    assert len(rows) == 7 and rows[2] == b"3" and rows[4] == b"1" and list(rows.problems()) == [3]
    with pytest.raises(BadSample, match="1.parquet"):
        pickle.loads(pickle.dumps(rows))[3]


def test_a_copy_joins_types_and_a_failed_one_leaves_nothing(tmp_path, cache, monkeypatch):
    files = [write_parquet(tmp_path / "0.parquet", [b"1"]), tmp_path / "1.parquet"]
    pq.write_table(pa.table({"image": pa.array([b"2"], pa.large_binary())}), files[1])
    rows = copied(ParquetRows(files), ["image"], "it")
    rows.columns = ["image"]
    assert list(rows) == [b"1", b"2"]
    files[1].unlink()
    write_parquet(files[1], [b"3"])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("d2v_train.data.arrow_rows._with_problem", full)
    with pytest.raises(WriteError, match="the copy of it.*No space"):
        copied(ParquetRows(files), ["image"], "it")
    assert len([path for path in cache.iterdir() if path.suffix == ".arrow" or "draft" in path.name]) == 1
