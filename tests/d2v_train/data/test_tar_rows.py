"""Samples of WebDataset tar files, whole and damaged."""

import json
import pickle

import fsspec
import pytest
from table_data import png, write_tar

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import open_dataset
from d2v_train.data.tar_rows import TarRows


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def members(count=4, start=0):
    for number in range(start, start + count):
        yield f"a.b/{number:03}.{'PNG' if number % 2 else 'jpg'}", png(number)
        yield f"a.b/{number:03}.cls", f"{number % 2}\n".encode()
        yield f"a.b/{number:03}.seg.json", json.dumps({"speaker": f"s{number}", "label": number}).encode()


def picture(rows, row):
    return next(value["bytes"] for value in rows[row] if value is not None)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "remote"])
def test_samples_are_files_with_one_name_up_to_the_first_dot(tmp_path, name):
    kind = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.rpartition(".")[2], "w")
    path = str(write_tar(tmp_path / "x.tar" if name == "remote" else tmp_path / name, members(), kind))
    if name == "remote":
        fsspec.filesystem("memory").pipe_file("/tars/x.tar", (tmp_path / "x.tar").read_bytes())
        path = "memory://tars/x.tar"
    rows = TarRows([path, path])
    rows.columns = ["jpg", "png"]
    assert len(rows) == 8 and [picture(rows, row) for row in (0, 3, 5)] == [png(0), png(3), png(1)]
    assert rows.column("cls") == [0, 1, 0, 1] * 2 and rows.column("speaker")[:2] == ["s0", "s1"]
    assert rows.names[5].endswith("/a.b/001") and picture(pickle.loads(pickle.dumps(rows)), 3) == png(3)
    assert rows[0][0]["path"].endswith("a.b/000.jpg")


@pytest.mark.parametrize("damage, kept", [("cut", 2), ("end mark", 4), ("empty", 0), ("rubbish", 0)])
def test_a_damaged_archive_ends_with_one_bad_sample(tmp_path, damage, kept, caplog):
    files = [write_tar(tmp_path / f"{number}.tar", members(start=4 * number)) for number in range(3)]
    whole = files[1].read_bytes()
    cut = whole.index(b"a.b/006.jpg") + 600
    last = whole.rstrip(b"\0")
    contents = {"cut": whole[:cut], "empty": b"", "rubbish": b"rubbish" * 500}
    files[1].write_bytes(contents.get(damage, whole[: -(-len(last) // 512) * 512]))
    rows = TarRows(files)
    rows.columns = ["jpg", "png"]
    bad = next(iter(rows.problems()))
    assert len(rows.problems()) == 1 and "1.tar" in caplog.text and 4 + kept <= bad <= 5 + kept
    assert len(rows) == bad + 5 and picture(rows, bad + 1) == png(8) and rows.column("cls")[bad] is None
    with pytest.raises(BadSample, match="1.tar"):
        rows[bad]


def test_texts_classes_and_odd_members(tmp_path):
    files = [
        ("README", b"x"),
        ("._0.jpg", b"x"),
        ("0.txt", "\ufeffcafé\n".encode()),
        ("0.cls", b"cat"),
        ("0.txt", b"again"),
    ]
    files += [("1.txt", b"b"), ("1.cls", b""), ("1.json", b"{broken"), ("1.bin", b"\0")]
    rows = TarRows([write_tar(tmp_path / "a.tar", files)])
    assert rows.column("txt") == ["café", "again", "b"] and rows.column("cls") == ["cat", None, None]
    assert rows.schema["txt"].type == "string" and rows.schema["bin"].type == "binary"


def test_archives_without_samples_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no samples"):
        TarRows([write_tar(tmp_path / "a.tar", [("README", b"x")])])
    (tmp_path / "b.tar").write_bytes(b"rubbish" * 500)
    with pytest.raises(ValueError, match="b.tar"):
        TarRows([tmp_path / "b.tar"])


def test_the_index_of_a_large_archive_is_kept_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("d2v_train.data.tar_rows.INDEX_KEPT_FROM", 3)
    path = write_tar(tmp_path / "a.tar", members())
    first = TarRows([path])
    monkeypatch.setattr("d2v_train.data.tar_rows._index_of", lambda *_: pytest.fail("the archive was read again"))
    kept = TarRows([path])
    assert kept.names == first.names and kept.column("cls") == first.column("cls")
    monkeypatch.undo()
    write_tar(path, members(2))
    assert len(TarRows([path])) == 2


@pytest.mark.parametrize("content", [b"\xff", "café".encode("latin-1"), "café".encode("utf-16")])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_text_that_is_not_utf8_is_a_bad_sample(tmp_path, content, streaming):
    write_tar(tmp_path / "a.tar", [("0.txt", b"a"), ("1.txt", content), ("1.cls", content), ("2.txt", "é".encode())])
    data = open_dataset(
        "text", str(tmp_path), read_labels=False, on_bad="raise", stream_block=2 if streaming else None
    )
    assert [data.load(0)["text"], data.load(2)["text"]] == ["a", "é"]
    with pytest.raises(BadSample, match=r"not UTF-8: a.tar/1.txt"):
        data.load(1)
    assert open_dataset("text", str(tmp_path)).labels.tolist() == [-1, -1, -1]
