"""Tables of text with a delimiter: .csv, .tsv, and those with semicolons or bars.

The csv builder of the `datasets` library is not used: it takes words such as NA for missing values, fills short rows
without a word, decides the types of all rows by the first ones, and does not tell where a file is not UTF-8.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from d2v_train.data.files import open_file, problem_of
from d2v_train.data.listing import decoded_text
from d2v_train.data.memory_table import TablePart
from d2v_train.data.tables import AS_FOUND, SourceSettings


DELIMITERS = (",", "\t", ";", "|")
"""Recognised delimiters; of several that the first line contains equally often, the first one."""
BLOCK_BYTES = 2**22
"""Size of the pieces that a regular table is parsed in."""
csv.field_size_limit(2**31 - 1)


def read_delimited(path: str, settings: SourceSettings = AS_FOUND) -> TablePart:
    """Read a file whose first line names its columns.

    Columns are separated by tabs in a .tsv file, otherwise by what the first line contains most often of comma, tab,
    semicolon and bar. Quotes keep delimiters and line ends together, as is standard, except where tabs separate:
    there, they are characters like any other, and each line is a row. Blank lines are skipped. A row with too few or
    too many cells is a row that cannot be read, named with its line.

    Raises:
        ValueError: If the file is not in the encoding of `settings`, is empty, has two columns of one name, or a quote
            that is never closed.
    """
    text = read_text(path, settings.encoding)
    if "\n" not in text and "\r" in text:  # line ends of classic Mac OS
        text = text.replace("\r", "\n")
    first = next((line for line in _lines(text) if line.strip()), "")
    delimiter = "\t" if path.lower().removesuffix(".gz").endswith((".tsv", ".tab")) else _delimiter_of(first)
    rows = _plain_rows(text, delimiter) if delimiter == "\t" else _quoted_rows(text, delimiter, path)
    _, header = next(rows, (0, None))
    if header is None:
        raise ValueError(f"{path} is empty. Its first line must name the columns.")
    if isinstance(header, str):
        raise ValueError(f"The first line of {path} does not name columns: {header}.")
    names = [name.strip() or f"column {number}" for number, name in enumerate(header, start=1)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns of the name {twice!r}. Rename one of them.")

    columns = _regular_columns(text, delimiter, len(names))
    if columns is not None:
        return TablePart(path, dict(zip(names, columns, strict=True)), len(columns[0]))
    width, problems, cells = len(names), {}, []
    for number, (place, row) in enumerate(rows):
        if not isinstance(row, str) and len(row) > width and not any(map(str.strip, row[width:])):
            row = row[:width]  # spreadsheets end rows with empty cells
        if isinstance(row, str) or len(row) != width:
            reason = row if isinstance(row, str) else f"{len(row)} cells, but the table has {width} columns"
            problems[number] = problem_of(path, reason, place)
            row = [None] * width
        cells.append(row)
    columns = zip(*cells, strict=True) if cells else ([] for _ in names)
    return TablePart(path, dict(zip(names, map(list, columns), strict=True)), len(cells), problems)


def read_text(path: str, encoding: str) -> str:
    """Return the content of a file of text, without a byte order mark.

    Raises:
        EncodingError: If it is not in this encoding; the message names the line.
    """
    with open_file(path) as file:
        content = file.read()
    if path.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be decompressed: {error}.") from error
    return decoded_text(content, encoding, path)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines with their line feeds."""
    start = 0
    while end := text.find("\n", start) + 1:
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _delimiter_of(header: str) -> str:
    """Return the delimiter that a header contains most often outside of quotes."""
    bare = "".join(part for number, part in enumerate(header.split('"')) if number % 2 == 0)
    return max(DELIMITERS, key=bare.count)


def _regular_columns(text: str, delimiter: str, width: int) -> list[list[str]] | None:
    """Return the columns below the header of a regular table, in a tenth of the time; None for other tables.

    A table is regular if all rows have `width` cells, and quotes stand only around whole cells or are doubled. Both
    readers then agree on every cell.
    """
    import pyarrow
    import pyarrow.csv

    content = text.encode("utf-8", "surrogatepass")
    # A row of one cell may be a blank line, and a carriage return alone is a line end for the other reader only.
    if width == 1 or b"\0" in content or content.count(b"\r") != content.count(b"\r\n"):
        return None
    if delimiter != "\t" and not _quotes_cells_only(content, delimiter):
        return None
    names = [str(number) for number in range(width)]
    try:
        table = pyarrow.csv.read_csv(
            pyarrow.BufferReader(content),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char=False if delimiter == "\t" else '"',
                newlines_in_values=delimiter != "\t",
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()),
                strings_can_be_null=False,
            ),
        ).slice(1)
    except pyarrow.ArrowException:
        return None
    if delimiter == "\t" and _has_blank_rows(table):
        return None
    return [column.to_numpy(zero_copy_only=False).tolist() for column in table.columns]


def _quotes_cells_only(content: bytes, delimiter: str) -> bool:
    """Return whether every quote opens a cell, closes one, or is one half of a doubled quote in a quoted cell."""
    codes = np.frombuffer(content, np.uint8)
    places = np.flatnonzero(codes == ord('"'))
    if len(places) % 2:
        return False
    opening, closing = places[::2], places[1::2]
    bounds = [ord(character) for character in (delimiter, "\n", '"')]
    before = codes[opening[opening > 0] - 1]
    after = codes[closing[closing < len(codes) - 1] + 1]
    return bool(np.isin(before, bounds).all() and np.isin(after, [*bounds, ord("\r")]).all())


def _has_blank_rows(table: Any) -> bool:
    """Return whether all cells of some row are white space."""
    import pyarrow.compute as compute

    blank = None
    for column in table.columns:
        empty = compute.or_(compute.equal(compute.binary_length(column), 0), compute.utf8_is_space(column))
        blank = empty if blank is None else compute.and_(blank, empty)
        if not compute.any(blank).as_py():
            return False
    return True


def _plain_rows(text: str, delimiter: str) -> Iterator[tuple[str, Any]]:
    """Yield place and cells of each line."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield f"line {number}", line.split(delimiter)


def _quoted_rows(text: str, delimiter: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield place and cells of each row, or the reason why it cannot be read."""
    lines = _Counted(_lines(text))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.number + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise ValueError(
                    f"The quote that opens in line {start} of {path} is never closed, so all lines after it would be "
                    "one cell. Close it, double quotes that are text, or separate the columns by tabs (.tsv), where "
                    "quotes mean nothing."
                ) from error
            yield _place(start, lines.number), str(error)
            # What is left of the row in the reader must not reach the next one.
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        if len(row) > 1 or (row and row[0].strip()):
            yield _place(start, lines.number), row


def _place(first: int, last: int) -> str:
    return f"line {first}" if first == last else f"lines {first} to {last}"


class _Counted:
    """Lines with the number of the last one that was read."""

    def __init__(self, lines: Iterable[str]):
        self.lines, self.number = iter(lines), 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        return line
