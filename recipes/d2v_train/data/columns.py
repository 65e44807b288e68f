"""Columns of a table, and the rows of a table whose cells are read when they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2v_train.data.rows import Rows


@dataclass(frozen=True)
class Column:
    """What a column holds.

    Args:
        type: "string", "binary", "list", "struct", "boolean", "number", "null" or "other".
        feature: Class of the column in the `datasets` library, such as "Image", if the file tells it.
        names: Names of its classes, if the file tells them.
        has_lists: Whether its cells are lists, or contain them.
        has_numbers: Whether its cells are lists of numbers, nested or not.
    """

    type: str
    feature: str | None = None
    names: tuple[str, ...] | None = None
    has_lists: bool = False
    has_numbers: bool = False


class TableRows(Rows):
    """The cells of a table, row by row.

    A row that cannot be read raises `BadSample`; in `column` it is None.

    Attributes:
        schema: Columns of all files by name.
        columns: Columns whose cells make a row.
        finish: `finish(cells, folder)` makes the value of a row; without it a row of one column is its cell, of
            several a tuple.
        is_untyped: Whether all cells are text, so that numbers are recognised by their digits.
    """

    schema: dict[str, Column]
    columns: Sequence[str] = ()
    finish: Callable[[list[Any], str], Any] | None = None
    is_untyped: bool = False

    def column(self, name: str) -> list[Any]:
        """Return a whole column, with None for rows that cannot be read."""
        raise NotImplementedError

    def cells(self, row: int) -> list[Any]:
        """Return the cells of `columns` in a row.

        Raises:
            BadSample: If the row cannot be read.
        """
        raise NotImplementedError

    def folder(self, row: int) -> str:
        """Return the folder (or URL) of the file of a row, which relative paths start from."""
        return ""

    def stamp(self) -> str | None:
        """Return a string that changes with the files, or None if that would mean to read them."""
        return None

    @property
    def identity(self) -> str | None:
        """A string that changes with the values; None for paths, as it would not change with the files they name."""
        stamp = self.stamp()
        names_files = self.finish is not None and any(self.schema[name].type == "string" for name in self.columns)
        return None if stamp is None or names_files else f"{list(self.columns)}\n{stamp}"

    def lost_files(self) -> list[str]:
        """Return the files of which nothing can be read; each counts as one row that cannot be read."""
        return []

    def check(self, columns: Iterable[str]) -> None:
        """Check that all files that can be read have the columns.

        Raises:
            ColumnNotFoundError: If one does not.
        """

    def bytes_of(self, columns: Iterable[str]) -> int:
        """Return about how many bytes the columns take in memory."""
        return 0

    def __getitem__(self, row: int) -> Any:
        """Return the undecoded value of a row."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        cells = self.cells(row)
        if self.finish is not None:
            return self.finish(cells, self.folder(row))
        return cells[0] if len(cells) == 1 else tuple(cells)


class DatasetRows(TableRows):
    """Rows of a `datasets.Dataset`, such as one of the Hub, undecoded.

    Args:
        dataset: The dataset.
        columns: Columns of a row.
    """

    def __init__(self, dataset: Any, columns: Sequence[str] = ()):
        self.dataset = dataset
        self.schema = columns_of(dataset.features.arrow_schema)
        self.columns = list(columns)

    def __len__(self) -> int:
        return len(self.dataset)

    def column(self, name: str) -> list[Any]:
        return self._undecoded([name])[name][:]

    def cells(self, row: int) -> list[Any]:
        if tuple(self.columns) != self._selected:
            self._selected, self._view = tuple(self.columns), self._undecoded(self.columns)
        values = self._view[int(row)]
        return [values[name] for name in self.columns]

    def bytes_of(self, columns: Iterable[str]) -> int:
        return self.dataset.data.nbytes

    def stamp(self) -> str | None:
        return self.dataset._fingerprint

    _selected: tuple[str, ...] | None = None
    _view: Any = None

    def _undecoded(self, columns: Sequence[str]) -> Any:
        from datasets import Audio, Image

        dataset = self.dataset.select_columns(list(columns))
        for name, feature in dataset.features.items():
            if isinstance(feature, Image | Audio) and feature.decode:
                dataset = dataset.cast_column(name, type(feature)(decode=False))
        return dataset


def columns_of(schema: Any) -> dict[str, Column]:
    """Return the columns of an Arrow schema, with what the `datasets` library noted in its metadata."""
    noted: dict[str, Any] = {}
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        pass
    found = {}
    for field in schema:
        feature, names = _feature(noted.get(field.name) if isinstance(noted, dict) else None)
        found[field.name] = Column(
            _type_of(field.type), feature, names, _has_list(field.type), _holds_numbers(field.type)
        )
    return found


def merge_columns(parts: Iterable[dict[str, Column]]) -> dict[str, Column]:
    """Return the columns of all parts by name; of a column with several descriptions, the most telling one."""
    found: dict[str, Column] = {}
    for part in parts:
        for name, column in part.items():
            known = found.get(name)
            if known is None or known.type == "null" or (known.feature is None and column.feature is not None):
                found[name] = column
    return found


def cell_of(scalar: Any, column: Column) -> Any:
    """Return the Python value of an Arrow scalar; lists of numbers become arrays."""
    return _with_arrays(scalar) if column.has_lists else scalar.as_py()


def _with_arrays(scalar: Any) -> Any:
    import pyarrow

    if isinstance(scalar, pyarrow.ExtensionScalar):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    if not _has_list(scalar.type):
        return scalar.as_py()
    if pyarrow.types.is_struct(scalar.type):
        return {name: _with_arrays(scalar[name]) for name in (field.name for field in scalar.type)}
    return _array_of(scalar)


def _feature(noted: Any) -> tuple[str | None, tuple[str, ...] | None]:
    """Return class and class names of a column as the `datasets` library notes them."""
    if isinstance(noted, list) and noted:  # an older notation of a list
        return "List", _feature(noted[0])[1]
    if not isinstance(noted, dict):
        return None, None
    kind = noted.get("_type")
    if kind == "ClassLabel" and noted.get("names"):
        return kind, tuple(map(str, noted["names"]))
    if "feature" in noted:
        return kind, _feature(noted["feature"])[1]
    return (kind if isinstance(kind, str) else None), None


def _type_of(kind: Any) -> str:
    from pyarrow import types

    while hasattr(kind, "storage_type") or types.is_dictionary(kind):
        kind = kind.storage_type if hasattr(kind, "storage_type") else kind.value_type
    tests = {
        "string": (types.is_string, types.is_large_string, types.is_string_view),
        "binary": (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view),
        "list": (types.is_list, types.is_large_list, types.is_fixed_size_list),
        "struct": (types.is_struct,),
        "boolean": (types.is_boolean,),
        "number": (types.is_integer, types.is_floating, types.is_decimal),
        "null": (types.is_null,),
    }
    return next((name for name, checks in tests.items() if any(check(kind) for check in checks)), "other")


def _has_list(kind: Any) -> bool:
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if types.is_struct(kind):
        return any(_has_list(field.type) for field in kind)
    return _type_of(kind) == "list"


def _holds_numbers(kind: Any) -> bool:
    """Return whether a type is a list of numbers, nested or not."""
    if _type_of(kind) != "list":
        return False
    while _type_of(kind) == "list":
        kind = getattr(kind, "storage_type", kind).value_type
    return _type_of(kind) == "number"


def _array_of(scalar: Any) -> Any:
    """Return a list of numbers, nested or not, as an array; other lists as lists."""
    values, shape = scalar.values, [len(scalar.values)]
    while _type_of(values.type) == "list":
        lengths = {len(value) if value.is_valid else -1 for value in values}
        if len(lengths) != 1 or -1 in lengths:
            return scalar.as_py()
        shape.append(lengths.pop())
        values = values.flatten()
    if _type_of(values.type) not in ("number", "boolean") or values.null_count:
        return scalar.as_py()
    return np.array(values.to_numpy(zero_copy_only=False)).reshape(shape)
