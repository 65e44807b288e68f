"""Files and folders are whole or as they were, whatever happens while they are written."""

import os
import shutil

import pytest

from d2v_train.support import atomic
from d2v_train.support.atomic import remove_folder, write_bytes, write_file, write_folder, write_json, write_text
from d2v_train.support.storage import WriteError


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "write, value, written",
    [
        (write_text, "größer\n", "größer\n".encode()),
        (write_bytes, b"\x00\xff", b"\x00\xff"),
        (write_json, {"a": [1]}, b'{\n "a": [\n  1\n ]\n}\n'),
    ],
)
def test_a_file_is_written_with_its_folder_and_nothing_else(tmp_path, write, value, written):
    for _ in range(2):
        write(tmp_path / "new" / "a.txt", value)
        assert content_of(tmp_path) == {"new/a.txt": written}


@pytest.mark.parametrize("name", ["open", "fsync", "replace"])
def test_a_file_that_cannot_be_written_is_as_it_was_and_the_error_a_sentence(tmp_path, monkeypatch, name):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    write_text(tmp_path / "a.txt", "before")
    if name == "open":
        (tmp_path / ".a.txt.draft").mkdir()
    else:
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(WriteError, match=r"^The list cannot be written to .*: (No space|Is a directory).* are free"):
        write_text(tmp_path / "a.txt", "after", "The list")
    with pytest.raises(WriteError, match=r"^a.txt cannot be written"):
        write_text(tmp_path / "a.txt", "after")
    assert content_of(tmp_path) == {"a.txt": b"before"}


def test_an_error_while_a_file_is_written_passes_and_leaves_what_was_there(tmp_path):
    write_bytes(tmp_path / "a.bin", b"before")
    with pytest.raises(KeyboardInterrupt), write_file(tmp_path / "a.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert content_of(tmp_path) == {"a.bin": b"before"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_is_after(tmp_path, monkeypatch):
    done = []
    replace, fsync = os.replace, os.fsync

    def note(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths)))
    monkeypatch.setattr(os, "fsync", note)
    write_bytes(tmp_path / "a.bin", b"x")
    assert done == [(tmp_path / "a.bin").stat().st_ino, "replace", tmp_path.stat().st_ino]


def test_a_folder_replaces_the_one_before_and_its_files_are_on_the_disk_first(tmp_path, monkeypatch):
    flushed = []
    flush, rename = atomic.flush, os.rename

    def note(source, target):
        if str(target) == str(tmp_path / "final"):
            assert {path.name for path in flushed} == {".final.draft", "inside", "b.txt", "c.txt"}
        rename(source, target)

    write_text(tmp_path / "final" / "a.txt", "old")
    (tmp_path / ".final.draft").mkdir()
    (tmp_path / ".final.draft" / "left_over.txt").write_text("of a run that was killed")
    monkeypatch.setattr(atomic, "flush", lambda path: (flush(path), flushed.append(path)))
    monkeypatch.setattr(os, "rename", note)
    with write_folder(tmp_path / "final") as draft:
        assert list(draft.iterdir()) == []
        (draft / "inside").mkdir()
        (draft / "inside" / "b.txt").write_text("new")
        (draft / "c.txt").write_text("new")
    assert content_of(tmp_path) == {"final/inside/b.txt": b"new", "final/c.txt": b"new"}
    assert flushed[-1] == tmp_path and [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("place", ["in the block", "first rename", "second rename"])
def test_a_folder_that_fails_leaves_the_one_before(tmp_path, monkeypatch, place):
    rename, left = os.rename, {"in the block": 9, "first rename": 0, "second rename": 1}[place]

    def fail(source, target):
        nonlocal left
        left -= 1
        if left == -1:
            raise KeyboardInterrupt
        rename(source, target)

    write_text(tmp_path / "final" / "a.txt", "old")
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(KeyboardInterrupt), write_folder(tmp_path / "final") as draft:
        (draft / "a.txt").write_text("new")
        if place == "in the block":
            raise KeyboardInterrupt
    assert content_of(tmp_path) == {"final/a.txt": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_an_interrupted_removal_leaves_no_part_under_the_name(tmp_path, monkeypatch):
    def interrupted(path):
        (path / "a.txt").unlink()
        raise KeyboardInterrupt

    for name in ("a.txt", "b.txt"):
        write_text(tmp_path / "step" / name, name)
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        remove_folder(tmp_path / "step")
    assert content_of(tmp_path) == {".step.old/b.txt": b"b.txt"}
