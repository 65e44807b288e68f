"""Tables of columns, local or remote: which column holds what, and the `Table` of undecoded values made of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.arrow_rows import ArrowRows, copied
from d2v_train.data.cells import ArrayCells, MediaCells
from d2v_train.data.columns import Column, DatasetRows, TableRows
from d2v_train.data.delimited import read_delimited
from d2v_train.data.files import problem_of
from d2v_train.data.inventory import Inventory
from d2v_train.data.json_tables import read_json_table
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.label_columns import encode_labels, recognise
from d2v_train.data.listing import EncodingError
from d2v_train.data.memory_table import MemoryTable, TablePart
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.rows import MemoryRows, Rows
from d2v_train.data.table_files import find_tables, format_of
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    RATE_COLUMNS,
    ColumnNotFoundError,
    SourceSettings,
    Table,
    UnclearColumnError,
    find_text_columns,
    is_missing,
    pick_split,
    read_lengths,
    transcript_column,
    usual_column,
)
from d2v_train.data.tar_rows import TarRows


logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 2**29
"""Text up to this size, in bytes, is read into memory at once, which is ten times as fast as row by row."""
STREAMED = ("parquet", "arrow", "webdataset")
"""Formats whose rows can be read one by one."""


class OpenTables(Mapping[str, TableRows]):
    """Tables by split, opened when they are needed.

    Args:
        splits: The splits, each as a function that opens it.
    """

    def __init__(self, splits: Mapping[str, Callable[[], TableRows]]):
        self._open, self._opened = dict(splits), {}

    def __getitem__(self, split: str) -> TableRows:
        if split not in self._opened:
            self._opened[split] = self._open[split]()
        return self._opened[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)


def open_columns(
    modality: str, source: str | Path, split: str, settings: SourceSettings, streaming: bool = False
) -> Table | None:
    """Open one split of a file, a folder or a URL of tables; None if there are no tables.

    Args:
        modality: "text", "vision", "audio" or "arrays".
        source: A file or folder of parquet, Arrow, WebDataset tar, csv, tsv or JSON, or what `save_to_disk` wrote.
        split: The split.
        settings: What to read.
        streaming: Whether parquet is read when its rows are needed, without labels and transcripts, instead of being
            copied to a table that is mapped into memory.

    Raises:
        ValueError: If there is no such split or column, or no file of the split can be read.
        FileNotFoundError: If there is nothing at a URL.
    """
    found = find_tables(source)
    if found is None:
        return None
    tables = open_files(found.splits, settings)
    name = pick_split(split, list(tables), str(source))
    kind = format_of(found.splits[name][0])
    table = table_of(modality, tables, name, settings, str(source), streaming and kind in STREAMED)
    lost = tables[name].lost_files()
    used = [file for files in found.splits.values() for file in files if file not in lost]
    if lost:
        found.left_out["it cannot be read, and counts as one bad sample"] = lost
    layout = f"tables of columns ({kind})"
    samples = dict.fromkeys(found.splits) | {name: len(table.values)}
    table.inventory = Inventory(str(source), layout, samples, used, found.left_out)
    return table


def open_files(splits: Mapping[str, Sequence[str]], settings: SourceSettings) -> OpenTables:
    """Return the tables of files by split.

    Args:
        splits: Paths or URLs by split; those of a split have one format.
        settings: Settings of the source, for the encoding.
    """

    def opener(files: Sequence[str]) -> Callable[[], TableRows]:
        kind = format_of(files[0])
        if kind in ("csv", "tsv"):
            return lambda: MemoryTable(_read_parts(files, settings, read_delimited), is_untyped=True)
        if kind in ("json", "jsonl"):
            return lambda: MemoryTable(_read_parts(files, settings, read_json_table))
        return lambda: {"parquet": ParquetRows, "arrow": ArrowRows, "webdataset": TarRows}[kind](files)

    return OpenTables({split: opener(list(files)) for split, files in splits.items() if files})


def open_datasets(splits: Mapping[str, Any]) -> OpenTables:
    """Return the tables of a `datasets.DatasetDict`."""
    return OpenTables({split: (lambda dataset=dataset: DatasetRows(dataset)) for split, dataset in splits.items()})


def keep_bars_out_of_logs() -> None:
    """Turn off the progress bars of the `datasets` library where they would not be drawn over, as in files of logs."""
    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()


def stream_parquet(modality: str, files: Any, split: str, settings: SourceSettings, where: str) -> Table:
    """Return the table of one split of the Hub, whose rows are read when they are needed, without labels.

    Args:
        modality: "text", "vision", "audio" or "arrays".
        files: Files by split.
        split: The split.
        settings: What to read.
        where: Name of the source.

    Raises:
        ValueError: If `files` is None, or not all are parquet.
    """
    if not files:  # the cache of the library does not list the files of a dataset
        raise ValueError(
            f"The files of {where} are unknown, for example because the Hub cannot be reached. Set "
            "data.streaming=false to use what was downloaded."
        )
    if not all(str(file).endswith(".parquet") for part in files.values() for file in part):
        raise ValueError(
            f"{where} is not stored as parquet, the only format that is streamed from the Hub. Set "
            "data.streaming=false to download it, or convert it to parquet."
        )
    splits = {name: [str(file) for file in part] for name, part in files.items()}
    return table_of(modality, open_files(splits, settings), split, settings, where, streaming=True)


def table_of(
    modality: str,
    splits: Mapping[str, TableRows],
    split: str,
    settings: SourceSettings,
    where: str,
    streaming: bool = False,
) -> Table:
    """Return the table of one split, with its media columns undecoded.

    Args:
        modality: "text", "vision", "audio" or "arrays".
        splits: Tables by split; that of another split is opened only for the names of classes.
        split: The split.
        settings: What to read.
        where: Name of the source.
        streaming: Whether rows are read from their files when they are needed, without labels and transcripts.

    Raises:
        ValueError: If there is no such split or column, or labels or lengths cannot be used.
    """
    name = pick_split(split, list(splits), where)
    rows = splits[name]
    existing = list(rows.schema)
    kind = RECORD_KINDS[modality]
    inputs = input_columns(modality, rows.schema, settings.column, where)
    if len(inputs) == 1 or kind.is_text:  # the samples of a tar file may be .jpg and .png
        rows.check(inputs)
    label = text = None
    if not streaming:
        if settings.read_labels:
            label = usual_column(existing, settings.label_column, LABEL_COLUMNS, "label", where)
        if not kind.is_text:
            text = transcript_column(existing, settings.text_column, where)
    group = usual_column(existing, settings.group_column, GROUP_COLUMNS, "group", where)
    length = usual_column(existing, settings.length_column, (), "length", where)
    labels = label_names = groups = transcripts = lengths = None
    if label is not None:
        names = rows.schema[label].names
        universe = _labels_of_other_splits(splits, name, label) if names is None else ()
        raw = rows.column(label)
        labels, label_names = encode_labels(raw, names, universe, f"column {label!r} of {where}", rows.is_untyped)
    if group is not None:
        groups = ["" if is_missing(value) else str(value) for value in rows.column(group)]
    if text is not None:
        transcripts = ["" if value is None else str(value) for value in rows.column(text)]
    if length is not None:
        lengths = read_lengths(rows.column(length), f"column {length!r} of {where}")
    if not kind.is_text:
        rate = usual_column(existing, None, RATE_COLUMNS, "sampling rate", where) if modality == "audio" else None
        _check_rate(modality, rows.schema, inputs, rate, settings, where)
        finish = MediaCells(modality == "audio", settings.sampling_rate, rate is not None)
        if modality == "arrays":
            finish = ArrayCells(settings.column is not None and len(inputs) > 1)
        values = _media_rows(rows, [*inputs, *([rate] if rate else [])], finish, streaming, where)
    else:
        values = _text_rows(rows, inputs, streaming, where)
    return Table(values, labels, groups, label_names, transcripts, lengths)


def input_columns(
    modality: str, schema: Mapping[str, Column], wanted: str | Sequence[str] | None, where: str
) -> list[str]:
    """Return the columns of the input: those that are wanted, or else those of the right type and a usual name.

    Raises:
        ColumnNotFoundError: If a wanted one does not exist.
        UnclearColumnError: If it is unclear which column it is.
    """
    if wanted is not None:
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        unknown = [name for name in wanted if name not in schema]
        if unknown:
            raise ColumnNotFoundError(f"There is no column {unknown[0]!r} in {where}. It has: {', '.join(schema)}.")
        return wanted
    kind = RECORD_KINDS[modality]
    if kind.is_text:
        candidates = [name for name, column in schema.items() if column.type == "string"]
        found = find_text_columns(list(schema), candidates)
        if found is None and "txt" in candidates:  # of a WebDataset
            found = ["txt"]
    elif modality == "arrays":
        return _array_columns(schema, where)
    else:
        candidates = [name for name, column in schema.items() if column.feature == kind.feature]
        if (
            not candidates
        ):  # written without the library's metadata: bytes, a struct of bytes and path, an array, a path
            usable = {name for name, column in schema.items() if column.type not in ("boolean", "number")}
            named = [name for name in (*kind.columns, *_columns_of_paths(modality)) if name in usable]
            suffixed = [name for name in schema if f".{name.rpartition('.')[2]}" in kind.suffixes]
            # Fields of a WebDataset are named by their suffixes; a sample has one of them.
            if suffixed and not [name for name in named if name not in suffixed]:
                return suffixed
            candidates = named or [name for name in PATH_COLUMNS if name in usable][:1]
        found = next(([name] for name in kind.columns if name in candidates), None)
        found = found or ([candidates[0]] if len(candidates) == 1 else None)
    if found:
        return found
    hint = f"it may be one of: {', '.join(candidates)}" if candidates else f"it has: {', '.join(schema)}"
    raise UnclearColumnError(f"It is unclear which column of {where} holds the {modality} input; {hint}.")


def _array_columns(schema: Mapping[str, Column], where: str) -> list[str]:
    """Return the column of arrays: lists of numbers, members of a tar file, or names of files.

    Raises:
        UnclearColumnError: If it is unclear which column it is.
    """
    kind = RECORD_KINDS["arrays"]
    suffixed = [name for name in schema if f".{name.rpartition('.')[2]}" in kind.suffixes]
    if suffixed:
        return suffixed
    others = {
        *LABEL_COLUMNS,
        *(name for other in RECORD_KINDS.values() if other is not kind for name in other.columns),
    }
    lists = [name for name, column in schema.items() if column.has_numbers and name not in others]
    named = [name for name in kind.columns if name in lists]
    if named or len(lists) == 1:
        return [(named or lists)[0]]
    paths = [name for name in (*kind.columns, "array_path", "array_file_name") if name in schema and not lists]
    paths = [name for name in paths if schema[name].type in ("string", "binary", "struct")]
    if paths:
        return paths[:1]
    hint = f"it may be one of: {', '.join(lists)}" if lists else f"it has: {', '.join(schema)}"
    also = "; several names are the channels, of one list each" if len(lists) > 1 else ""
    raise UnclearColumnError(f"It is unclear which column of {where} holds the arrays; {hint}{also}.")


def _columns_of_paths(modality: str) -> list[str]:
    stems = ("image", "img") if modality == "vision" else ("audio", "wav", "speech")
    return [f"{stem}_{end}" for stem in stems for end in ("path", "file", "filepath", "filename", "file_path")]


def _check_rate(
    modality: str,
    schema: Mapping[str, Column],
    inputs: Sequence[str],
    rate: str | None,
    settings: SourceSettings,
    where: str,
) -> None:
    """Check that the sampling rate of recordings that are stored as arrays is known."""
    arrays = [name for name in inputs if schema[name].type == "list"]
    if modality == "audio" and arrays and rate is None and settings.sampling_rate is None:
        raise ColumnNotFoundError(
            f"The recordings in column {arrays[0]!r} of {where} are arrays of samples, and nothing tells their "
            "sampling rate. Set the option sampling_rate of the source, or add a column `sampling_rate`."
        )


def _media_rows(rows: TableRows, columns: list[str], finish: MediaCells, streaming: bool, where: str) -> TableRows:
    """Return the rows of encoded images or recordings, from a mapped copy where the files allow no access by row."""
    if isinstance(rows, ParquetRows) and not streaming:
        rows = copied(rows, columns, where)
    rows.columns, rows.finish, rows.is_stream = columns, finish, streaming
    return rows


def _text_rows(rows: TableRows, columns: list[str], streaming: bool, where: str) -> Rows:
    """Return the rows of texts, in memory if they are few."""
    rows.columns = columns
    if streaming:
        rows.is_stream = True
        return rows
    if rows.bytes_of(columns) < MAX_TEXT_BYTES:
        texts = [rows.column(column) for column in columns]
        values = texts[0] if len(texts) == 1 else list(zip(*texts, strict=True))
        for row, problem in rows.problems().items():
            values[row] = problem if len(texts) == 1 else (problem,) * len(texts)
        return MemoryRows(values)
    if isinstance(rows, ParquetRows):
        rows = copied(rows, columns, where)
        rows.columns = columns
    rows.is_stream = False
    return rows


def _labels_of_other_splits(splits: Mapping[str, TableRows], split: str, label: str) -> Iterator[Any]:
    """Yield the labels of the other splits, as far as these can be read."""
    for other in splits:
        if other == split:
            continue
        try:
            rows = splits[other]
            values = rows.column(label) if label in rows.schema else []
            if rows.is_untyped and not splits[split].is_untyped:
                values = recognise(values, f"column {label!r} of the split {other!r}")
            yield from values
        except (OSError, ValueError) as error:
            logger.warning("The split %r cannot be read for the names of its classes: %s", other, error)


def _read_parts(
    files: Sequence[str], settings: SourceSettings, read: Callable[[str, SourceSettings], TablePart]
) -> list[TablePart]:
    """Return the tables of files; one that cannot be read is one row that cannot be read, unless all are such.

    Raises:
        ValueError: If none of the files can be read.
        EncodingError: If one is in another encoding.
    """
    parts, errors = [], []
    for file in files:
        try:
            parts.append(read(file, settings))
        except EncodingError:
            raise
        except ValueError as error:
            errors.append(error)
            parts.append(TablePart(file, {}, 1, {0: problem_of(file, str(error))}))
    if len(errors) == len(files):
        raise errors[0]
    for error in errors:
        logger.warning("A file cannot be read and counts as one bad sample: %s", error)
    return parts
