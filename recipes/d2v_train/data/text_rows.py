"""Documents of large text files, found by one pass over the files and read when they are needed.

Only the offsets of each document are kept, 28 bytes per document. The documents are those of
`text_files.open_text_files`, except that the fields of `.jsonl` are chosen from the first objects of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.rows import Rows
from d2v_train.data.tables import SourceSettings
from d2v_train.data.text_files import choose_fields, parse_line, pick_fields


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OBJECTS_LOOKED_AT = 1000


class TextRows(Rows):
    """Undecoded documents of `.txt` and `.jsonl` files, one after another.

    Args:
        files: The files, with their names for reports.
        settings: Settings of the source, for the fields of `.jsonl` files.

    Attributes:
        names: Names of the documents.
        groups: Name of the file of each document.
    """

    is_stream = True

    def __init__(self, files: Sequence[tuple[Path, str]], settings: SourceSettings):
        self.files = list(files)
        found = [np.array(list(_documents(path)), dtype=np.int64).reshape(-1, 3) for path, _ in self.files]
        self._file = np.repeat(np.arange(len(found), dtype=np.int32), [len(part) for part in found])
        self._first, self._last, self._number = np.concatenate(found).T.copy()
        self._choices = {
            number: choose_fields(list(_first_objects(path)), settings, shown)
            for number, (path, shown) in enumerate(self.files)
            if not _is_plain(path)
        }
        self.names = _Lazy(len(self), self._name)
        self.groups = _Lazy(len(self), lambda row: self.files[self._file[row]][1])

    def __len__(self) -> int:
        """Return the number of documents of all files."""
        return len(self._file)

    def __getitem__(self, row: int) -> Any:
        """Return the undecoded value of a document."""
        number = int(self._file[row])
        with open(self.files[number][0], "rb") as file:
            file.seek(int(self._first[row]))
            content = file.read(int(self._last[row] - self._first[row]))
        content = content.replace(b"\r\n", b"\n")
        if number not in self._choices:
            return content
        value = parse_line(content.removesuffix(b"\n"))  # for the same error messages as without streaming
        return pick_fields(value, self._choices[number])["value"] if isinstance(value, dict) else value

    @property
    def identity(self) -> str:
        """A string that changes with the fields or the files."""
        stats = [(path, path.stat()) for path, _ in self.files]
        return "\n".join([str(self._choices), *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)])

    def _name(self, row: int) -> str:
        path, shown = self.files[self._file[row]]
        return f"{shown}, {'document' if _is_plain(path) else 'line'} {self._number[row]}"


class _Lazy(Sequence):
    """Values that are computed on access."""

    def __init__(self, size: int, make: Callable[[int], str]):
        self.size, self.make = size, make

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < self.size:
            raise IndexError(row)
        return self.make(row)


def _is_plain(path: Path) -> bool:
    return path.suffix.lower() == ".txt"


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield start and end of each line in bytes, and its content, without a byte order mark."""
    place = 0
    with open(path, "rb") as file:
        for line in file:
            last = place + len(line)
            mark = len(BYTE_ORDER_MARK) if place == 0 and line.startswith(BYTE_ORDER_MARK) else 0
            yield place + mark, last, line[mark:]
            place = last


def _documents(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield start and end of each document of a file in bytes, and its number from 1."""
    if not _is_plain(path):
        for number, (first, last, line) in enumerate(_lines(path), start=1):
            if line.strip():
                yield first, last, number
        return
    start, end, number = None, 0, 0
    for first, last, line in _lines(path):
        if line.strip(b" \t\r\n"):
            start = first if start is None else start
            end = last
        elif start is not None:
            number += 1
            yield start, end, number
            start = None
    if start is not None or number == 0:  # an empty file counts as one empty document
        yield start or 0, end, number + 1


def _first_objects(path: Path) -> Iterator[dict[str, Any]]:
    values = (parse_line(line.replace(b"\r\n", b"\n")) for _, _, line in _lines(path) if line.strip())
    return islice((value for value in values if isinstance(value, dict)), OBJECTS_LOOKED_AT)
