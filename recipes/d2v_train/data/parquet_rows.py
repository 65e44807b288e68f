"""Rows of parquet files, local or remote, read one row group at a time: nothing is downloaded or converted beforehand.

The footer of a file contains the offset of each row group, so a run may start at any row without reading those before
it. Groups that were read stay in memory up to a number of rows. With samples ordered in blocks of that many rows, each
block is read once in an epoch by every process that prepares batches.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from d2v_train.data.rows import Rows


FOOTER_THREADS = 16
"""Number of footers that are read concurrently."""


class ParquetRows(Rows):
    """The undecoded input column(s) of parquet files, one file after another.

    Args:
        files: Paths, or URLs that fsspec opens, such as hf://...

    Attributes:
        columns: Columns of a row, set after construction; a row of one column is its value, of several a tuple.
        features: `datasets.Features` of the files.
        is_remote: Whether the files are not on this machine.

    Raises:
        ValueError: If a file is not a parquet file, or has other columns than the first.
    """

    def __init__(self, files: Sequence[str]):
        import numpy as np
        from datasets import Features

        self.files = [str(file) for file in files]
        self.columns: list[str] = []
        self.is_stream, self.is_remote = True, any("://" in file for file in self.files)
        with ThreadPoolExecutor(min(FOOTER_THREADS, len(self.files))) as pool:
            self._footers = list(pool.map(_footer, self.files))
        schema = self._footers[0].schema.to_arrow_schema()
        for file, footer in zip(self.files, self._footers, strict=True):
            if footer.schema.to_arrow_schema().names != schema.names:
                raise ValueError(
                    f"The columns of {file} ({', '.join(footer.schema.to_arrow_schema().names)}) are not those of "
                    f"{self.files[0]} ({', '.join(schema.names)}). Give only files with the same columns."
                )
        self.features = Features.from_arrow_schema(schema)
        self._groups = [
            (file, group) for file, footer in enumerate(self._footers) for group in range(footer.num_row_groups)
        ]
        sizes = [self._footers[file].row_group(group).num_rows for file, group in self._groups]
        self._ends, self._largest = np.cumsum(sizes), max(sizes, default=0)
        self.keep(0)
        self._forget()

    def __len__(self) -> int:
        """Return the number of rows of all files."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> Any:
        """Return the undecoded value of a row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        number = int(self._ends.searchsorted(row, side="right"))
        place = row - (int(self._ends[number - 1]) if number else 0)
        table = self._group(number)
        values = tuple(table.column(column)[place].as_py() for column in self.columns)
        return values[0] if len(values) == 1 else values

    def keep(self, rows: int) -> None:
        """Set how many rows stay in memory, besides two row groups."""
        self._room = rows + 2 * self._largest

    def column(self, name: str) -> list[Any]:
        """Return a whole column, read without the others."""
        return [value for number in range(len(self._groups)) for value in self._read(number, [name])[name].to_pylist()]

    @property
    def identity(self) -> str:
        """A string that changes with the columns or the files, as far as their footers show."""
        parts = [str(self.columns)]
        for file, footer in zip(self.files, self._footers, strict=True):
            changed = "" if "://" in file else os.stat(file).st_mtime_ns
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
                table = self._read(number, self.columns)
                while self._kept and sum(map(len, self._kept.values())) + len(table) > self._room:
                    self._kept.popitem(last=False)
                self._kept[number] = table
            self._kept.move_to_end(number)
            return self._kept[number]

    def _read(self, number: int, columns: list[str]) -> Any:
        import pyarrow.parquet

        file, group = self._groups[number]
        with _open(self.files[file]) as source:
            reader = pyarrow.parquet.ParquetFile(source, metadata=self._footers[file], pre_buffer=True)
            return reader.read_row_group(group, columns=columns, use_threads=False)


def _open(path: str) -> Any:
    import fsspec
    import huggingface_hub  # noqa: F401  (registers hf://)

    # The reader requests what it needs; reading ahead would fetch the columns that are left out.
    return fsspec.open(path, "rb", **({"cache_type": "none"} if "://" in path else {})).open()


def _footer(path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        with _open(path) as source:
            return pyarrow.parquet.read_metadata(source)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a parquet file, or is incomplete: {error}.") from error
