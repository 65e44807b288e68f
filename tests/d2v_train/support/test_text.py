"""Numbers and tables for people."""

import pytest

from d2v_train.support.text import duration, lines_of, readable_bytes, table


ROWS = [("name", "loss", "note"), ("a", 1.5, ""), ("longer", 10, "x")]


@pytest.mark.parametrize(
    "settings, lines",
    [
        ({}, ["name    loss  note", "a       1.5", "longer  10    x"]),
        ({"align": "<>"}, ["name    loss  note", "a        1.5", "longer    10     x"]),
        ({"align": "<><"}, ["name    loss  note", "a        1.5", "longer    10  x"]),
        ({"align": ">", "widths": (8, 2)}, ["    name  loss  note", "       a   1.5", "  longer    10     x"]),
    ],
)  # fmt: skip
def test_cells_are_under_each_other(settings, lines):
    assert table(ROWS, **settings).split("\n") == lines


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError):
        table([("a", "b"), ("c",)])


def test_bytes_for_people():
    assert [readable_bytes(count) for count in (0, 1023, 1024, 3 * 2**29, 2**45)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "1.5 GiB", "32.0 TiB"]  # fmt: skip


@pytest.mark.parametrize(
    "seconds, words",
    [(0.2, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (532_800, "6 d 4 h")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    "text, lines",
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\r\n\r\nb\n\n", ["a", "", "b", ""]),
        ("a\x85b\u2028c\u2029d\x0be\x0cf\x1cg\rh\n", ["a\x85b\u2028c\u2029d\x0be\x0cf\x1cg\rh"]),
    ],
)
def test_lines_end_with_line_feeds_only(text, lines):
    assert lines_of(text) == lines


def test_lines_of_files_end_with_line_feeds_only():
    assert lines_of("a\r\nb\u2028c\x85d\x0c\n\ne") == ["a", "b\u2028c\x85d\x0c", "", "e"]
    assert lines_of("") == [] and lines_of("a\n") == ["a"]
