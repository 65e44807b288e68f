"""Metadata of files: tables with a column of file names, as csv, tsv, lines of JSON, or parquet.

The separator of a csv is that with which its header names the column of the files. Between tabs and bars nothing is
quoted; between commas and semicolons a cell may be quoted, and a quote that is not closed is an error, because it
would merge rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from d2v_train.data.listing import decoded_text
from d2v_train.data.tables import SourceSettings, is_missing
from d2v_train.support.text import lines_of


METADATA_NAMES = tuple(f"metadata.{suffix}" for suffix in ("csv", "tsv", "jsonl", "json", "parquet"))
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "file_path",
    "filepath",
    "path",
    "audio_filepath",
    "audio_path",
    "image_path",
    "audio_file_name",
    "image_file_name",
    "array_path",
    "array_file_name",
    "audio",
    "image",
)
"""Names of the column of the files, best first."""
SEPARATORS = ",;\t|"


def read_metadata(content: bytes, shown: str, settings: SourceSettings) -> list[tuple[str, dict[str, Any]]] | None:
    """Return the file and the further columns of each row.

    Args:
        content: The metadata file.
        shown: Its name, for messages; its suffix tells the format.
        settings: Encoding, and whether anything but the files is read: only then must every row have the cells of the
            header.

    Returns:
        The rows, or None if there is no column of file names, or a json or parquet file is no table.

    Raises:
        ValueError: If the file is malformed, or a row names no file.
    """
    suffix = shown.rpartition(".")[2].lower()
    if suffix == "parquet":
        table = _parquet(content, shown)
    elif suffix == "json":
        table = _json(content, shown, settings)
    elif suffix == "jsonl":
        table = _json_lines(content, shown, settings)
    else:
        table = _cells(content, shown, settings, suffix)
    if table is None or (table and not _names_a_file(table[0])):
        return None
    rows = []
    for number, row in enumerate(table, start=1):
        column = _file_column(row)
        written = None if column is None else row[column]
        if not isinstance(written, str) or is_missing(written):
            raise ValueError(f"Row {number} of {shown} has no `file_name`. Name the file that the row describes.")
        rows.append((written, {key: _stripped(cell) for key, cell in row.items() if key != column}))
    return rows


def names_files(header: Iterable[str]) -> bool:
    """Return whether a header names a column of files."""
    return _file_column(name.strip().strip('"') for name in header) is not None


def split_cells(line: str) -> tuple[str, str]:
    """Return the first word of a line, and what follows it."""
    first, *rest = line.split(maxsplit=1)
    return first, rest[0].strip() if rest else ""


def _names_a_file(row: dict[str, Any]) -> bool:
    """Return whether a row has a column of file names, not of recordings or pictures themselves."""
    column = _file_column(row)
    return column == "file_name" or isinstance(row.get(column), str)


def _file_column(names: Iterable[str]) -> str | None:
    names = [name for name in names if isinstance(name, str)]
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in FILE_COLUMNS if name in lower), None)


def _cells(content: bytes, shown: str, settings: SourceSettings, suffix: str) -> list[dict[str, Any]] | None:
    text = decoded_text(content, settings.encoding, shown)
    if "\n" not in text:  # line ends of classic Mac OS
        text = text.replace("\r", "\n")
    lines = lines_of(text)
    while lines and not lines[0].strip():
        lines.pop(0)
    header = lines[0] if lines else ""
    separator = _separator(header, suffix)
    if separator in "\t|":
        table = [line.split(separator) for line in lines if line.strip()]
    else:
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
        try:
            table = list(reader)
        except csv.Error as error:
            raise ValueError(
                f"The metadata file {shown} is not CSV: {error} (line {reader.line_num}). Close every quote, and "
                "write quotes inside a quoted cell twice."
            ) from error
    # Spreadsheets end tables with rows of empty cells.
    table = [row for row in table if any(map(str.strip, row))]
    names = [name.strip() for name in table[0]] if table else []
    names = names if separator not in "\t|" else [name.strip('"') for name in names]
    if _file_column(names) is None:
        return None
    twice = next((name for name, count in Counter(names).items() if name and count > 1), None)
    if twice is not None:
        raise ValueError(f"The header of {shown} names the column {twice!r} twice. Rename one of them.")
    must_fit = settings.read_labels or settings.text_column is not None
    rows = []
    for number, row in enumerate(table[1:], start=1):
        if must_fit and any(cell.strip() for cell in row[len(names) :]):
            raise ValueError(
                f"Row {number} of {shown} has {len(row)} cells, its header {len(names)}. Quote the cells that contain "
                f"{separator!r}, or use another separator."
            )
        rows.append({name: cell for name, cell in zip(names, row, strict=False) if name})
    return rows


def _separator(header: str, suffix: str) -> str:
    """Return the separator with which a header names the column of the files."""
    default = "\t" if suffix == "tsv" else ","
    fitting = [separator for separator in (default, *SEPARATORS) if names_files(header.split(separator))]
    return max(fitting, key=header.count, default=default)


def _json(content: bytes, shown: str, settings: SourceSettings) -> list[dict[str, Any]] | None:
    try:
        rows = json.loads(decoded_text(content, settings.encoding, shown))
    except ValueError:
        return None  # often lines of JSON of another kind
    fits = isinstance(rows, list) and rows and all(isinstance(row, dict) and _file_column(row) for row in rows)
    return rows if fits else None


def _json_lines(content: bytes, shown: str, settings: SourceSettings) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(lines_of(decoded_text(content, settings.encoding, shown)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Line {number} of the metadata file {shown} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {shown} has no `file_name`. Write one object in each line.")
        rows.append(row)
    return rows


def _parquet(content: bytes, shown: str) -> list[dict[str, Any]] | None:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(io.BytesIO(content)) as file:
            return file.read().to_pylist() if _file_column(file.schema_arrow.names) is not None else None
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"The metadata file {shown} is not parquet, or is incomplete: {error}.") from error


def _stripped(cell: Any) -> Any:
    return cell.strip() if isinstance(cell, str) else cell
