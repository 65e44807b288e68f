"""Rows of Arrow files, mapped into memory: `.arrow` files, what `save_to_disk` wrote, copies of parquet columns."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import WeakFileLock

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.columns import TableRows, cell_of, columns_of, merge_columns
from d2v_train.data.files import is_damage, is_url, open_file, problem_of, stamp_of, stamps_of
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.tables import ColumnNotFoundError
from d2v_train.support.atomic import write_file
from d2v_train.support.storage import writing


logger = logging.getLogger(__name__)

PROBLEM = "d2v_problem"
"""Column of a copy that holds the reason why a row of the original cannot be read."""
BATCH_ROWS = 1000
COPY_VERSION = 1
"""Version of the copies; it changes with what is written into them."""


class ArrowRows(TableRows):
    """Rows of Arrow files, in the stream or the file format, one file after another.

    Local files are mapped into memory, so that any number of processes share them. A file that is damaged or cut off
    ends with one row that cannot be read, as nothing tells how many rows are lost.

    Args:
        files: Paths or URLs.

    Attributes:
        origin: Rows that these are a copy of, or None.

    Raises:
        ValueError: If none of the files can be read.
    """

    origin: ParquetRows | None = None

    def __init__(self, files: Sequence[str]):
        self.files = [str(file) for file in files]
        self._open()
        if not any(self._batches):
            first = next(iter(self._damage.values()), None)
            if first is not None:
                raise ValueError(f"{first.detail}. It is not an Arrow file, or is incomplete.")
        self.schema = merge_columns(columns_of(batch.schema) for batch in self._batches if batch is not None)
        self.schema.pop(PROBLEM, None)
        for problem in self._damage.values():
            logger.warning("A file is damaged; its end counts as one bad sample: %s", problem.detail)

    def __len__(self) -> int:
        """Return the number of rows of all files."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for batch in self._batches:
            size = 1 if batch is None else batch.num_rows
            known = batch is not None and name in batch.schema.names
            values += batch.column(name).to_pylist() if known else [None] * size
        return values

    def cells(self, row: int) -> list[Any]:
        number = int(self._ends.searchsorted(row, side="right"))
        if number in self._damage:
            raise self._damage[number].with_traceback(None)
        place = row - (int(self._ends[number - 1]) if number else 0)
        problems, columns = self._view(number)
        if problems is not None and problems[place].is_valid:
            raise BadSample("unreadable", problems[place].as_py())
        return [
            None if values is None else cell_of(values[place], self.schema[name])
            for name, values in zip(self.columns, columns, strict=True)
        ]

    def folder(self, row: int) -> str:
        if self.origin is not None:
            return self.origin.folder(row)
        number = int(self._ends.searchsorted(row, side="right"))
        return os.path.dirname(self.files[self._file[number]])

    def problems(self) -> dict[int, BadSample]:
        found = {int(self._ends[number]) - 1: problem for number, problem in self._damage.items()}
        start = 0
        for batch in self._batches:
            if batch is not None and PROBLEM in batch.schema.names and batch.column(PROBLEM).null_count < len(batch):
                reasons = enumerate(batch.column(PROBLEM).to_pylist(), start=start)
                found |= {row: BadSample("unreadable", reason) for row, reason in reasons if reason is not None}
            start += 1 if batch is None else batch.num_rows
        return found

    def lost_files(self) -> list[str]:
        if self.origin is not None:
            return self.origin.lost_files()
        read = {file for file, batch in zip(self._file, self._batches, strict=True) if batch is not None}
        return [self.files[self._file[number]] for number in self._damage if self._file[number] not in read]

    def check(self, columns: Iterable[str]) -> None:
        for number, batch in enumerate(self._batches):
            for name in columns:
                if batch is not None and name not in batch.schema.names:
                    names = [name for name in batch.schema.names if name != PROBLEM]
                    raise ColumnNotFoundError(
                        f"There is no column {name!r} in {self.files[self._file[number]]}. It has: "
                        f"{', '.join(names)}. Give only files that have it."
                    )

    def bytes_of(self, columns: Iterable[str]) -> int:
        columns = list(columns)
        return sum(
            batch.column(name).nbytes
            for batch in self._batches
            if batch is not None
            for name in columns
            if name in batch.schema.names
        )

    def stamp(self) -> str | None:
        return stamps_of(self.files) if self.origin is None else self.origin.stamp()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the mapped memory."""
        mapped = ("_batches", "_views", "_ends", "_file")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        self.__dict__.update(state)
        self._open()

    def _view(self, number: int) -> tuple[Any, list[Any]]:
        """Return the problems of a batch, or None, and its columns of a row, None for those that it lacks."""
        wanted = tuple(self.columns)
        known = self._views.get(number)
        if known is None or known[0] != wanted:
            batch = self._batches[number]
            names = batch.schema.names
            problems = batch.column(PROBLEM) if PROBLEM in names else None
            if problems is not None and problems.null_count == len(problems):
                problems = None
            known = (wanted, problems, [batch.column(name) if name in names else None for name in wanted])
            self._views[number] = known
        return known[1:]

    def _open(self) -> None:
        self._views: dict[int, tuple[tuple[str, ...], Any, list[Any]]] = {}
        self._batches: list[Any] = []
        self._damage: dict[int, BadSample] = {}
        self._file: list[int] = []  # of each batch
        for number, file in enumerate(self.files):
            try:
                for batch in _batches_of(file):
                    batch.validate()
                    self._batches.append(batch)
                    self._file.append(number)
            except Exception as error:  # damaged files fail in several libraries
                if not is_damage(error, file):
                    raise
                self._damage[len(self._batches)] = problem_of(file, error)
                self._batches.append(None)
                self._file.append(number)
        self._ends = np.cumsum([1 if batch is None else batch.num_rows for batch in self._batches])


def copied(rows: ParquetRows, columns: Sequence[str], where: str) -> ArrowRows:
    """Return some columns of parquet files as a mapped table, which reads any row at once.

    The table is a file in the cache of the `datasets` library, written when it does not exist and reused while the
    files are unchanged. Damaged row groups and files stay rows that cannot be read.

    Args:
        rows: The files.
        columns: The columns; others are not copied.
        where: Name of the source, for errors.

    Raises:
        ValueError: If the types of a column in two files have nothing in common.
        WriteError: If the copy cannot be written, for example because the disk is full.
    """
    import hashlib

    import pyarrow
    from datasets.config import HF_DATASETS_CACHE

    columns = list(columns)
    rows.check(columns)
    digest = hashlib.blake2b(digest_size=16)
    # The footers of remote files may be those of other contents.
    stamps = [stamp_of(file) for file in rows.files]
    digest.update(f"{COPY_VERSION}\n{columns}\n{stamps}".encode("utf-8", "surrogateescape"))
    path = Path(HF_DATASETS_CACHE) / "data2vec_tables" / f"{digest.hexdigest()}.arrow"
    schema = rows.arrow_schema(columns).append(pyarrow.field(PROBLEM, pyarrow.string()))
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process of a machine copies, the others wait for its file.
    with WeakFileLock(path.with_suffix(".lock")):
        if not path.is_file():
            logger.info("The columns %s of %s are copied to %s.", ", ".join(columns), where, path.parent)
            with writing(f"the copy of {where}", path.parent), write_file(path) as file:
                with pyarrow.ipc.new_stream(file, schema) as writer:
                    for table in rows.tables(columns):
                        writer.write_table(_with_problem(table, schema), max_chunksize=BATCH_ROWS)
    copy = ArrowRows([str(path)])
    copy.schema = {name: rows.schema[name] for name in columns}
    copy.origin = rows
    return copy


def _with_problem(table: Any, schema: Any) -> Any:
    """Return a table with the column of problems, or one of nulls for rows that cannot be read."""
    import pyarrow

    if isinstance(table, tuple):
        problem, size = table
        nulls = [pyarrow.nulls(size, field.type) for field in schema][:-1]
        return pyarrow.Table.from_arrays(
            [*nulls, pyarrow.array([problem.detail] * size, pyarrow.string())], schema=schema
        )
    table = table.replace_schema_metadata(None)
    return table.append_column(schema.field(PROBLEM), pyarrow.nulls(len(table), pyarrow.string())).cast(schema)


def _batches_of(path: str) -> Iterable[Any]:
    """Yield the batches of an Arrow file in the stream or the file format."""
    import pyarrow

    def source() -> Any:
        if not is_url(path):
            return pyarrow.memory_map(path)
        with open_file(path) as file:
            return pyarrow.BufferReader(file.read())

    content = source()
    if content.size() == 0:
        raise ValueError("the file is empty")
    if content.read(6) == b"ARROW1":
        reader = pyarrow.ipc.open_file(source())
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    yield from pyarrow.ipc.open_stream(source())
