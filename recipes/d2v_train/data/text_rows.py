"""Documents of large text files, found by one pass over the files and read when they are needed.

Only where each document begins and ends is kept, 28 bytes a document. What is read is what `folders.open_text_files`
gives, with one difference: the fields of a `.jsonl` file are told from its first objects, not from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.folders import choose_fields, parse_line, pick_fields
from d2v_train.data.rows import Rows
from d2v_train.data.tables import SourceSettings


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
OBJECTS_LOOKED_AT = 1000


class TextRows(Rows):
    """Documents of some `.txt` and `.jsonl` files, one after another, undecoded.

    Args:
        files: the files, and what each is called in reports.
        settings: for the fields of `.jsonl` files.

    Attributes:
        names: of the documents.
        groups: the file of each document, as it is called.
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
        """Documents of all files."""
        return len(self._file)

    def __getitem__(self, row: int) -> Any:
        """Undecoded value of a document."""
        number = int(self._file[row])
        with open(self.files[number][0], "rb") as file:
            file.seek(int(self._first[row]))
            content = file.read(int(self._last[row] - self._first[row]))
        content = content.replace(b"\r\n", b"\n")
        if number not in self._choices:
            return content
        value = parse_line(content.removesuffix(b"\n"))  # else the parser words its complaint in another way
        return pick_fields(value, self._choices[number])["value"] if isinstance(value, dict) else value

    @property
    def identity(self) -> str:
        """What changes when the fields or the files change."""
        stats = [(path, path.stat()) for path, _ in self.files]
        return "\n".join([str(self._choices), *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)])

    def _name(self, row: int) -> str:
        path, shown = self.files[self._file[row]]
        return f"{shown}, {'document' if _is_plain(path) else 'line'} {self._number[row]}"


class _Lazy(Sequence):
    """Values that are made when they are asked for."""

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
    """First and last byte of each line, and its content, without a byte order mark."""
    place = 0
    with open(path, "rb") as file:
        for line in file:
            last = place + len(line)
            mark = len(BYTE_ORDER_MARK) if place == 0 and line.startswith(BYTE_ORDER_MARK) else 0
            yield place + mark, last, line[mark:]
            place = last


def _documents(path: Path) -> Iterator[tuple[int, int, int]]:
    """First and last byte of each document of a file, and its number for people."""
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
    if start is not None or number == 0:  # an empty file is one empty document, to be counted as such
        yield start or 0, end, number + 1


def _first_objects(path: Path) -> Iterator[dict[str, Any]]:
    values = (parse_line(line.replace(b"\r\n", b"\n")) for _, _, line in _lines(path) if line.strip())
    return islice((value for value in values if isinstance(value, dict)), OBJECTS_LOOKED_AT)
