"""One file of text in memory and in place: encodings, compression and errors that name the line."""

import bz2
import codecs
import gzip
import lzma
import os
import pickle

import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.text_source_file import TextFile, is_plain_text, text_suffix


TEXT = "caf\u00e9\r\nzwei\n\n\u4f60\u597d \U0001f600\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def texts(file, rule="paragraphs"):
    found = file.documents(rule)
    return [file.text(first, last).strip() for first, last in zip(found.first, found.last, strict=True)]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "content, encoding",
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (TEXT.encode("utf-16"), "utf-8"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "latin-1"),
        (TEXT.encode("utf-16-le"), "utf-16"),
        (TEXT.encode("utf-32"), "utf-8"),
        (TEXT.encode("gb18030"), "gb18030"),
    ],
)
def test_every_encoding_gives_the_same_text(tmp_path, content, encoding, in_memory):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    file = TextFile(path, "a.txt", encoding, in_memory)
    assert texts(file) == ["caf\u00e9\nzwei", "\u4f60\u597d \U0001f600"] and file.problem is None
    assert texts(file, "lines") == ["caf\u00e9", "zwei", "\u4f60\u597d \U0001f600"]
    assert texts(pickle.loads(pickle.dumps(file))) == texts(file)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("module, suffix", [(gzip, ".gz"), (bz2, ".bz2"), (lzma, ".XZ")])
def test_compressed_files(tmp_path, module, suffix, in_memory):
    path = tmp_path / f"a.TXT{suffix}"
    path.write_bytes(module.compress(TEXT.encode()))
    file = TextFile(path, path.name, in_memory=in_memory)
    assert file.is_plain and texts(file) == ["caf\u00e9\nzwei", "\u4f60\u597d \U0001f600"]
    path.write_bytes(module.compress(TEXT.encode())[:-9])
    with pytest.raises((EOFError, OSError)):
        texts(TextFile(path, path.name, in_memory=in_memory))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "content, encoding, reason, line",
    [
        (b"a\nb\n\nc\xe9\n", "utf-8", "not UTF-8", 4),
        (b"a\r\nb\r\n\r\nc\r\nd \xed\xa0\x80", "utf-8", "not UTF-8", 5),
        (b"a\n\n\x81", "cp1252", "unreadable", 3),
        (codecs.BOM_UTF16_LE + "a\n\nb".encode("utf-16-le") + b"\x00\xd8", "utf-8", "unreadable", 3),
        (b"a\n\n\xff", "ascii", "unreadable", 3),
    ],
)
def test_an_error_names_the_line_and_the_option(tmp_path, content, encoding, reason, line, in_memory):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    file = TextFile(path, "folder/a.txt", encoding, in_memory)
    found = file.documents("paragraphs")
    assert len(found.first) == 2 and file.text(found.first[0], found.last[0]).startswith("a")
    for _ in range(2):
        with pytest.raises(BadSample, match=rf"^{reason}: line {line} of folder/a.txt is not .*`encoding`"):
            file.text(found.first[1], found.last[1])


def test_utf_16_without_a_mark_is_refused_with_the_option(tmp_path):
    (tmp_path / "a.txt").write_bytes("plain words".encode("utf-16-be"))
    assert "`encoding` to utf-16-be" in TextFile(tmp_path / "a.txt", "a.txt").problem
    assert TextFile(tmp_path / "a.txt", "a.txt", "utf-16-be").problem is None


def test_suffixes():
    names = ["a.txt", "b.TXT", "c.Text.gz", "d.v2.jsonl.xz", "e.gz", "f"]
    assert [text_suffix(name) for name in names] == [".txt", ".txt", ".text", ".jsonl", "", ""]
    assert [is_plain_text(name) for name in names] == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    "name", ["", ".", ".txt", "a/.txt", "a.txt/b", "a/..txt", "a.b/c.TXT", "a.gz/b", "x.txt.", "a/.b.txt"]
)
def test_the_suffix_is_that_of_splitext(name):
    assert text_suffix(name) == os.path.splitext(name.lower())[1]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_any_size_have_the_same_windows_in_place_and_in_memory(tmp_path, size, mark):
    (tmp_path / "a.txt").write_bytes(mark + b"x" * size)
    for in_memory in (False, True):
        file = TextFile(tmp_path / "a.txt", "a.txt", in_memory=in_memory)
        assert b"".join(file.windows()) == b"x" * size
