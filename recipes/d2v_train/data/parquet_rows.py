"""Rows of parquet files, local or remote, read one row group at a time: nothing is downloaded or converted beforehand.

The footer of a file contains the offset of each row group, so a run may start at any row without reading those before
it. Groups that were read stay in memory up to a number of rows. With samples ordered in blocks of that many rows, each
block is read once in an epoch by every process that prepares batches.

The parquet builder of the `datasets` library is not used: it ends at the first damaged page or file, asks for the same
columns in all files, and copies all columns of all files before the first row can be read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.columns import TableRows, cell_of, columns_of, merge_columns
from d2v_train.data.files import is_damage, is_url, open_file, problem_of
from d2v_train.data.tables import ColumnNotFoundError


logger = logging.getLogger(__name__)

FOOTER_THREADS = 16
"""Number of footers that are read concurrently."""


class ParquetRows(TableRows):
    """The undecoded input column(s) of parquet files, one file after another.

    A file whose footer cannot be read is one row that cannot be read, as nothing tells how many rows it holds. The
    rows of a row group that cannot be read are as many. Files may have different columns, as long as each has those
    that are needed.

    Args:
        files: Paths, or URLs that fsspec opens, such as hf://...

    Attributes:
        is_remote: Whether the files are not on this machine.

    Raises:
        ValueError: If none of the files can be read.
    """

    def __init__(self, files: Sequence[str]):
        import numpy as np

        self.files = [str(file) for file in files]
        self._folders = [os.path.dirname(file) for file in self.files]
        self.is_stream, self.is_remote = True, any(map(is_url, self.files))
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(self.files))) as pool:
            self._footers = list(pool.map(_footer, self.files))
        self._schemas = [
            None if isinstance(footer, BadSample) else footer.schema.to_arrow_schema() for footer in self._footers
        ]
        self._torn: dict[int, BadSample] = {}  # row groups whose columns of a row cannot be read
        self._groups: list[tuple[int, int | None]] = []
        sizes = []
        for file, footer in enumerate(self._footers):
            if isinstance(footer, BadSample):
                self._groups.append((file, None))
                sizes.append(1)
                logger.warning("A file cannot be read and counts as one bad sample: %s", footer.detail)
                continue
            self._groups += [(file, group) for group in range(footer.num_row_groups)]
            sizes += [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        if all(schema is None for schema in self._schemas):
            raise ValueError(f"{self._footers[0].detail}. It is not a parquet file, or is incomplete.")
        self.schema = merge_columns(columns_of(schema) for schema in self._schemas if schema is not None)
        self._ends, self._largest = np.cumsum(sizes), max(sizes, default=0)
        self.keep(0)
        self._forget()

    def __len__(self) -> int:
        """Return the number of rows of all files."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def cells(self, row: int) -> list[Any]:
        number = int(self._ends.searchsorted(row, side="right"))
        table = self._group(number)
        place = row - self._start(number)
        return [cell_of(table.column(column)[place], self.schema[column]) for column in self.columns]

    def folder(self, row: int) -> str:
        file, _ = self._groups[int(self._ends.searchsorted(row, side="right"))]
        return self._folders[file]

    def keep(self, rows: int) -> None:
        """Set how many rows stay in memory, besides two row groups."""
        self._room = rows + 2 * self._largest

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for number in range(len(self._groups)):
            try:
                values += self._read(number, [name])[name].to_pylist()
            except BadSample as problem:
                if self._groups[number][1] is not None:
                    logger.warning("The column %r cannot be read: %s", name, problem.detail)
                values += [None] * (int(self._ends[number]) - self._start(number))
        return values

    def tables(self, columns: list[str]) -> Iterable[Any]:
        """Yield the tables of the row groups, or a `BadSample` and its number of rows for those that are damaged."""
        for number in range(len(self._groups)):
            try:
                yield self._read(number, columns)
            except BadSample as problem:
                yield problem, int(self._ends[number]) - self._start(number)

    def arrow_schema(self, columns: list[str]) -> Any:
        """Return the types of columns, wide enough for all files.

        Raises:
            ValueError: If the types of two files have nothing in common.
        """
        import pyarrow

        found = None
        for file, schema in zip(self.files, self._schemas, strict=True):
            if schema is None:
                continue
            part = pyarrow.schema([schema.field(name).remove_metadata() for name in columns])
            try:
                found = part if found is None else pyarrow.unify_schemas([found, part], promote_options="permissive")
            except pyarrow.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"The columns of {file} are of other types than those of the files before it: {reason}. Convert "
                    "them to the same types."
                ) from error
        return found

    def lost_files(self) -> list[str]:
        return [self.files[self._groups[number][0]] for number in self._lost()]

    def check(self, columns: Iterable[str]) -> None:
        for file, schema in zip(self.files, self._schemas, strict=True):
            for name in columns:
                if schema is not None and name not in schema.names:
                    raise ColumnNotFoundError(
                        f"There is no column {name!r} in {file}. It has: {', '.join(schema.names)}. Give only files "
                        "that have it."
                    )

    def bytes_of(self, columns: Iterable[str]) -> int:
        wanted, total = set(columns), 0
        for footer in self._footers:
            if isinstance(footer, BadSample):
                continue
            for group in range(footer.num_row_groups):
                part = footer.row_group(group)
                chunks = (part.column(number) for number in range(part.num_columns))
                total += sum(
                    chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted
                )
        return total

    def problems(self) -> dict[int, BadSample]:
        return {
            row: problem
            for number, problem in sorted((self._lost() | self._torn).items())
            for row in range(self._start(number), int(self._ends[number]))
        }

    def stamp(self) -> str:
        """Return a string that changes with the files, as far as their footers show."""
        parts = []
        for file, footer in zip(self.files, self._footers, strict=True):
            if isinstance(footer, BadSample):
                parts.append(f"{file} {footer.detail}")
                continue
            changed = "" if is_url(file) else os.stat(file).st_mtime_ns
            sizes = [footer.row_group(group).total_byte_size for group in range(footer.num_row_groups)]
            parts.append(f"{file} {changed} {footer.num_rows} {sizes}")
        return "\n".join(parts)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without what belongs to one process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_kept", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with nothing in memory."""
        self.__dict__.update(state)
        self._forget()

    def _lost(self) -> dict[int, BadSample]:
        """Return the entries of `_groups` that stand for files without a readable footer."""
        return {number: self._footers[file] for number, (file, group) in enumerate(self._groups) if group is None}

    def _start(self, number: int) -> int:
        return int(self._ends[number - 1]) if number else 0

    def _forget(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _group(self, number: int) -> Any:
        """Return the table of a row group, from memory or from its file."""
        if self._process != os.getpid():  # forked: the tables belong to the parent, and its lock may be held
            self._forget()
        with self._lock:
            if number not in self._kept:
                table = self._read(number, list(self.columns))
                while self._kept and sum(map(len, self._kept.values())) + len(table) > self._room:
                    self._kept.popitem(last=False)
                self._kept[number] = table
            self._kept.move_to_end(number)
            return self._kept[number]

    def _read(self, number: int, columns: list[str]) -> Any:
        """Return some columns of a row group, with nulls for those that its file lacks.

        Raises:
            BadSample: If they are damaged.
        """
        import pyarrow.parquet

        file, group = self._groups[number]
        if group is None:
            raise self._footers[file].with_traceback(None)
        if number in self._torn and list(columns) == list(self.columns):
            raise self._torn[number].with_traceback(None)
        existing = [name for name in columns if name in self._schemas[file].names]
        try:
            with open_file(self.files[file]) as source:
                reader = pyarrow.parquet.ParquetFile(
                    source, metadata=self._footers[file], pre_buffer=True, page_checksum_verification=True
                )
                table = reader.read_row_group(group, columns=existing, use_threads=False)
        except Exception as error:  # of damaged files, each codec raises its own
            if not is_damage(error, self.files[file]):
                raise
            problem = problem_of(self.files[file], error, f"row group {group}")
            if set(columns) & set(self.columns):
                self._torn[number] = problem
            raise problem from error
        for name in columns:
            if name not in existing:
                table = table.append_column(name, pyarrow.nulls(len(table)))
        return table.select(columns)


def _footer(path: str) -> Any:
    """Return the footer of a file, or the `BadSample` that it is."""
    import pyarrow.parquet

    try:
        with open_file(path) as source:
            return pyarrow.parquet.read_metadata(source)
    except Exception as error:  # damaged footers fail in the parser of another library
        if not is_damage(error, path):
            raise
        return problem_of(path, error)
