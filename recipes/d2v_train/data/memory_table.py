"""Tables whose cells are in memory: those of csv, tsv and json files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.columns import Column, TableRows, merge_columns
from d2v_train.data.files import stamps_of
from d2v_train.data.tables import TEXT_COLUMNS, ColumnNotFoundError, is_missing


@dataclass
class TablePart:
    """The cells of one file.

    Args:
        file: Path or URL.
        columns: Cells by column, None where there is none.
        size: Number of rows.
        problems: Rows that cannot be read.
    """

    file: str
    columns: dict[str, Sequence[Any]]
    size: int
    problems: dict[int, BadSample] = field(default_factory=dict)


class MemoryTable(TableRows):
    """Rows of tables in memory, one file after another.

    Args:
        parts: Tables of the files.
        is_untyped: Whether all cells are text.
    """

    def __init__(self, parts: Sequence[TablePart], is_untyped: bool = False):
        self.parts, self.is_untyped = list(parts), is_untyped
        self._ends = np.cumsum([part.size for part in parts])
        described = _word_columns if is_untyped else _value_columns
        self.schema = merge_columns(described(part) for part in parts)

    def __len__(self) -> int:
        """Return the number of rows of all files."""
        return int(self._ends[-1])

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for part in self.parts:
            values += part.columns.get(name) or [None] * part.size
        return values

    def cells(self, row: int) -> list[Any]:
        part, place = self._find(row)
        if place in part.problems:
            raise part.problems[place].with_traceback(None)
        found = [part.columns[name][place] if name in part.columns else None for name in self.columns]
        return [None if value == "" else value for value in found] if self.is_untyped else found

    def folder(self, row: int) -> str:
        return os.path.dirname(self._find(row)[0].file)

    def problems(self) -> dict[int, BadSample]:
        starts = self._ends - [part.size for part in self.parts]
        return {
            int(start) + row: problem
            for start, part in zip(starts, self.parts, strict=True)
            for row, problem in part.problems.items()
        }

    def lost_files(self) -> list[str]:
        return [part.file for part in self.parts if not part.columns]

    def check(self, columns: Iterable[str]) -> None:
        for part in self.parts:
            for name in columns:
                if name not in part.columns and len(part.problems) < part.size:
                    raise ColumnNotFoundError(
                        f"There is no column {name!r} in {part.file}. It has: {', '.join(part.columns)}. Give only "
                        "files that have it."
                    )

    def stamp(self) -> str | None:
        return stamps_of(part.file for part in self.parts)

    def _find(self, row: int) -> tuple[TablePart, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[number], row - (int(self._ends[number - 1]) if number else 0)


def _word_columns(part: TablePart) -> dict[str, Column]:
    """Return the columns of a table of text; a column of numbers is a text only if its name says so."""
    return {
        name: Column("number" if name not in TEXT_COLUMNS and _all(_is_number, values) else "string")
        for name, values in part.columns.items()
    }


def _value_columns(part: TablePart) -> dict[str, Column]:
    kinds = {str: "string", bool: "boolean", int: "number", float: "number", dict: "struct", list: "list"}
    found = {}
    for name, values in part.columns.items():
        # A few cells of another type are bad samples, not another kind of column.
        votes = [kind for kind, _ in Counter(map(type, values)).most_common() if kind in kinds]
        kind = kinds[votes[0]] if votes else "null"
        found[name] = Column(kind, has_numbers=kind == "list" and any(map(_is_list_of_numbers, values)))
    return found


def _is_list_of_numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all(test: Callable[[str], bool], values: Iterable[str | None]) -> bool:
    """Return whether a test holds for all values that are not missing, of which there is at least one."""
    some = False
    first = list(islice(values, 100))
    # Of a million labels few are different; most texts are told by the first one.
    for value in chain(first, set(values) if all(is_missing(value) or test(value) for value in first) else ()):
        if not is_missing(value):
            if not test(value):
                return False
            some = True
    return some


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.strip().lower() not in ("nan", "inf", "infinity", "-inf")
