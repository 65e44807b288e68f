"""Rows: several one after another, and what tells that they have changed."""

import pytest

from d2v_train.data.listing import FolderListing
from d2v_train.data.rows import JoinedRows, ListedRows, MemoryRows


def test_joined_rows_are_one_after_another_with_the_names_of_all_or_none():
    one, other = MemoryRows(["a", "b"], ["x", "y"]), MemoryRows(["c"], ["z"])
    joined = JoinedRows([one, other])
    assert list(joined) == ["a", "b", "c"] and list(joined.names) == ["x", "y", "z"]
    assert JoinedRows([one, MemoryRows(["c"])]).names is None
    with pytest.raises(IndexError):
        joined[3]


def test_joined_rows_keep_stream_and_reach_over_the_network_where_a_part_does():
    class Stream(MemoryRows):
        is_stream = is_remote = True
        kept = 0

        def keep(self, rows):
            self.kept = rows

    stream = Stream(["a"])
    joined = JoinedRows([MemoryRows(["b"]), stream])
    assert joined.is_stream and joined.is_remote and not JoinedRows([MemoryRows([1])]).is_stream
    joined.keep(7)
    assert stream.kept == 7


def test_identity_changes_with_the_files_and_is_unknown_for_what_is_in_memory(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"one")
    rows = ListedRows(FolderListing(tmp_path), ["a.wav"])
    assert list(rows) == [str(path)] and rows.names == ["a.wav"]
    before = rows.identity
    assert rows.identity == before
    path.write_bytes(b"longer")
    assert rows.identity != before
    assert JoinedRows([rows, rows]).identity == f"{rows.identity} {rows.identity}"
    assert MemoryRows(["a"]).identity is None and JoinedRows([rows, MemoryRows(["a"])]).identity is None
    path.unlink()
    assert rows.identity is None
