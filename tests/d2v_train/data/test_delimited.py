"""Tables with a delimiter: no row merges or moves, words are words, and every damage has its line."""

import gzip
import random

import pytest

from d2v_train.data import delimited
from d2v_train.data.delimited import read_delimited
from d2v_train.data.listing import EncodingError
from d2v_train.data.tables import SourceSettings


def read(tmp_path, content, name="a.csv", **settings):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_delimited(str(path), SourceSettings(**settings))


@pytest.mark.parametrize(
    "cell",
    ['"Second is what he said', 'third "quoted" word', 'fifth "end', '"', '""', '"a" "b"', "it's", '"a', "a,b;c|d"],
)
def test_quotes_mean_nothing_between_tabs(tmp_path, cell):
    part = read(tmp_path, f"text\tlabel\nfirst\t0\n{cell}\t1\nlast\t0\n", "a.tsv")
    assert part.columns == {"text": ["first", cell, "last"], "label": ["0", "1", "0"]} and not part.problems


@pytest.mark.parametrize(
    "cell, value",
    [
        ('"a, b"', "a, b"),
        ('"he said ""no"""', 'he said "no"'),
        ('"two\nlines"', "two\nlines"),
        ('"two\r\nlines"', "two\r\nlines"),
        ('5" disk', '5" disk'),
        ("a\x85b\u2028c", "a\x85b\u2028c"),
        ("NA", "NA"),
        ("", ""),
        ('""', ""),
    ],
)
def test_quotes_keep_cells_together_between_commas(tmp_path, cell, value):
    part = read(tmp_path, f"text,label\nfirst,0\n{cell},1\nlast,0\n")
    assert part.columns["text"] == ["first", value, "last"] and not part.problems


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_the_first_line_tells_the_delimiter(tmp_path, delimiter):
    part = read(tmp_path, f"text{delimiter} label \r\na b{delimiter}1\r\n\r\n")
    assert part.columns == {"text": ["a b"], "label": ["1"]}
    quoted = read(tmp_path, f'"a,b;c|d"{delimiter}"label"{delimiter}"x"\n1{delimiter}2{delimiter}3\n')
    assert len(quoted.columns) == 3


def test_rows_with_too_few_or_too_many_cells_are_named_with_their_line(tmp_path):
    part = read(tmp_path, 'text,label\n"two\nlines",1\nb\nc,1,2\nd,0,\ne,1\n')
    assert part.size == 5 and part.columns["text"] == ["two\nlines", None, None, "d", "e"]
    assert [problem.detail.rpartition(", line ")[2] for problem in part.problems.values()] == [
        "4: 1 cells, but the table has 2 columns",
        "5: 3 cells, but the table has 2 columns",
    ]
    part = read(tmp_path, "text\tlabel\na\t1\nb\nc\t0\n", "a.tsv")
    assert part.columns["text"] == ["a", None, "c"] and "line 3" in part.problems[1].detail


def test_what_a_stray_quote_swallows_is_one_named_row(tmp_path):
    part = read(tmp_path, 'text,label\na,1\n"b,1\nc,0\nd"e,0\nf,1\n')
    assert "lines 3 to 5" in part.problems[1].detail and part.columns["text"][-1] == "f"
    with pytest.raises(ValueError, match=r"opens in line 3 of .*a\.csv is never closed"):
        read(tmp_path, 'text,label\na,1\n"b,1\nc,0\n')


def test_byte_order_marks_and_encodings(tmp_path):
    assert list(read(tmp_path, b"\xef\xbb\xbftext,label\na,1\n").columns) == ["text", "label"]
    assert read(tmp_path, "text,label\ncafé,1\n".encode("utf-16")).columns["text"] == ["café"]
    latin = "text,label\nok,1\ncafé,1\n".encode("latin-1")
    with pytest.raises(EncodingError, match=r"Line 3 of .*a\.csv is not UTF-8.*option `encoding`"):
        read(tmp_path, latin)
    assert read(tmp_path, latin, encoding="latin-1").columns["text"] == ["ok", "café"]
    with pytest.raises(EncodingError, match="is not ASCII"):
        read(tmp_path, latin, encoding="ascii")


def test_compressed_files_and_line_ends_of_other_systems(tmp_path):
    assert read(tmp_path, gzip.compress(b'text\tlabel\n"a\t1\n'), "a.tsv.gz").columns["text"] == ['"a']
    assert read(tmp_path, b"text,label\ra,1\rb,0\r").columns["text"] == ["a", "b"]
    with pytest.raises(ValueError, match="decompressed"):
        read(tmp_path, gzip.compress(b"text,label\na,1\n" * 99)[:40], "a.csv.gz")


@pytest.mark.parametrize(
    "content, message", [(b"", "empty"), (b"\n \n", "empty"), (b"a,a\n1,2\n", "two columns.*'a'")]
)
def test_files_that_are_no_tables_say_why(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_a_table_without_rows_has_columns(tmp_path):
    assert read(tmp_path, "text,\n").columns == {"text": [], "column 2": []}


CELLS = [
    "a",
    "b c",
    "",
    " ",
    '"q"',
    '""',
    '"x""y"',
    '"x,y"',
    '"two\nlines"',
    '"two\r\nlines"',
    "é",
    "\u2028",
    "\x85",
    "NA",
]
ODD = ['"', 'a"b', "\r", "\u3000", '"" ', ' "a"', '"a"b', "\ufeff", "\x00", '""""', '"a\n\nb"', "\\", "'x'", "\t"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_regular_tables_are_read_as_the_careful_reader_reads_them(tmp_path, name, monkeypatch):
    rng, regular, found = random.Random(0), delimited._regular_columns, []

    def spied(*arguments):
        found.append(regular(*arguments))
        return found[-1]

    def outcome(content, reader):
        monkeypatch.setattr(delimited, "_regular_columns", reader)
        try:
            part = read(tmp_path, content, name)
        except ValueError as error:
            return str(error)
        return part.columns, part.size, {row: problem.detail for row, problem in part.problems.items()}

    for _ in range(400):
        end = rng.choice(["\n", "\r\n"])
        width = rng.choice([1, 2, 3])
        delimiter = "\t" if name == "a.tsv" else rng.choice(",;|")
        cells = CELLS + ODD if rng.random() < 0.4 else CELLS
        rows = [[f"h{number}" for number in range(width)]]
        rows += [rng.choices(cells, k=width + (rng.random() < 0.03)) for _ in range(rng.randrange(5))]
        content = "".join(delimiter.join(row) + end * rng.choice([1, 1, 1, 2]) for row in rows)
        content = content[: len(content) - rng.choice([0, len(end)])]
        assert outcome(content, spied) == outcome(content, lambda *_: None), repr(content)
    assert sum(columns is not None for columns in found) > 100
