"""Where the lines and documents of a text file lie, in any encoding, without reading the file as a whole.

A line ends with a line feed, also after a carriage return, and with nothing else: U+0085, U+2028, form feeds and
carriage returns alone are characters of a line. Files are searched in windows of `WINDOW_BYTES`, so that neither a
long file nor a long line takes memory. A document of more than `PART_BYTES` is cut into parts between two words.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np


WINDOW_BYTES = 2**22
"""Size of a window; a multiple of every character width."""
PART_BYTES = 2**20
"""Largest part of a document that is one sample."""
DOCUMENT_RULES = ("paragraphs", "lines", "files")
"""What is a document: what blank lines separate, a line, or a file."""
LONG_WORD = 10_000
"""Least number of letters and digits in a row that are noted: they are data of another kind, or a damaged file."""
NO_JOINT = 0
"""Joint of a part that begins a document."""
INSIDE_WORD = 1
"""Joint of a part that begins inside a word of the part before; other joints are the white space between both."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like the next one
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WITHOUT_MARK = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# First bytes in UTF-8, and single bytes of other encodings, that may be white space beyond ASCII.
_MAYBE_SPACE = b"\x85\xa0\xc2\xe1\xe2\xe3"
_CUT_WITHIN = 2**16
_WORD = re.compile(r"\w*")


@dataclass(frozen=True)
class FileEncoding:
    """Encoding of one file.

    Args:
        name: Codec of Python that neither expects nor writes a byte order mark.
        mark: Number of bytes of the byte order mark of the file.
    """

    name: str
    mark: int = 0

    @cached_property
    def width(self) -> int:
        """Bytes of a line feed: 1, or 2 in UTF-16 and 4 in UTF-32."""
        return len("\n".encode(self.name))

    def units(self, content: bytes) -> np.ndarray:
        """Return one uint8 for each code unit of the content: ASCII as it is in the encoding, others above 127."""
        if self.width == 1:
            return np.frombuffer(content, np.uint8)
        order = ">" if self.name.endswith("be") else "<"
        whole = content[: len(content) // self.width * self.width]
        wide = np.frombuffer(whole, f"{order}u{self.width}")
        return np.where(wide < 128, wide, 255).astype(np.uint8)

    def unit(self, character: str) -> int:
        """Return the uint8 of an ASCII character in `units`."""
        return int(self.units(character.encode(self.name))[0])

    def solid(self, blanks: str) -> np.ndarray:
        """Return a table (256,) bool of the code units that are not one of the `blanks`."""
        table = np.ones(256, dtype=bool)
        table[[self.unit(character) for character in blanks]] = False
        return table


class Documents(NamedTuple):
    """Documents, or their parts, in the order of the file; arrays (N,) of int64."""

    first: np.ndarray
    """First byte."""
    last: np.ndarray
    """Byte after the last one."""
    number: np.ndarray
    """Number of the document, or of the line, from 1."""
    part: np.ndarray
    """Number of the part from 1; 0 for a whole document."""
    joint: np.ndarray
    """What stands between this part and the one before: `NO_JOINT`, `INSIDE_WORD` or the code of a white space."""


def file_encoding(head: bytes, encoding: str) -> FileEncoding:
    """Return the encoding of a file: that of its byte order mark, or else the given one.

    Args:
        head: First bytes of the file, four or more.
        encoding: Encoding of files without a mark; utf-16 and utf-32 then mean little-endian.
    """
    for mark, name in _MARKS:
        if head.startswith(mark):
            return _shared_encoding(name, len(mark))
    return _shared_encoding(encoding)


@cache
def _shared_encoding(encoding: str, mark: int = 0) -> FileEncoding:
    name = codecs.lookup(encoding).name
    return FileEncoding(_WITHOUT_MARK.get(name, name), mark)


def unmarked_wide_encoding(head: bytes) -> str | None:
    """Return the encoding of text with many zero bytes, such as utf-16-le without its mark; None for other text."""
    if b"\0" not in head:
        return None
    for width, order in ((4, "le"), (4, "be"), (2, "le"), (2, "be")):
        whole = np.frombuffer(head[: len(head) // width * width], np.uint8).reshape(-1, width)
        zero = (whole == 0).mean(axis=0) if len(whole) else np.zeros(width)
        low, high = (zero[0], zero[1:]) if order == "le" else (zero[-1], zero[:-1])
        if low < 0.1 and high.min() > 0.4:
            return f"utf-{8 * width}-{order}"
    return None


def find_documents(windows: Iterable[bytes], encoding: FileEncoding, rule: str) -> Documents:
    """Return where the documents of a file lie, without white space around them.

    Args:
        windows: The file after its byte order mark, in pieces of whole code units.
        encoding: Its encoding.
        rule: One of `DOCUMENT_RULES`. Blank lines hold nothing but spaces and tabs; among `lines` they do not count.
    """
    found = _Finder(encoding, rule)
    held = b""
    for window in windows:
        found.take(held)
        held = window
    # The first line feed ends the last line, the second one the last paragraph.
    whole = len(held) // encoding.width * encoding.width
    found.take(held[:whole] + "\n\n".encode(encoding.name))
    return found.documents()


def cut_documents(
    documents: Documents, encoding: FileEncoding, read: Callable[[int, int], bytes], most: int | None = None
) -> Documents:
    """Return documents with those of more than `most` bytes cut into parts.

    A part ends where a single space or line feed stands between two words, which is its joint to the next one, or at
    `most` bytes if there is none nearby.

    Args:
        documents: Result of `find_documents`.
        encoding: Encoding of the file.
        read: Returns the bytes of the file from a first one to before a last one.
        most: Largest size of a part in bytes; None takes `PART_BYTES`.
    """
    most = PART_BYTES if most is None else most
    long = np.flatnonzero(documents.last - documents.first > most)
    if not len(long):
        return documents
    whole = np.ones(len(documents.first), dtype=bool)
    whole[long] = False
    rows = [np.stack(documents, axis=1)[whole]]
    for row in long.tolist():
        first, last, number = (int(documents[field][row]) for field in range(3))
        rows.append(np.array(list(_parts(first, last, number, encoding, read, most)), dtype=np.int64))
    joined = np.concatenate(rows)
    joined = joined[np.argsort(joined[:, 0], kind="stable")]
    return Documents(*joined.T.copy())


def _parts(first: int, last: int, number: int, encoding: FileEncoding, read: Callable[[int, int], bytes], most: int):
    joint, part = NO_JOINT, 0
    while last - first > most:
        part += 1
        end = first + most
        begin = max(first, end - _CUT_WITHIN)
        place = _between_words(encoding.units(read(begin, end)), encoding)
        if place is not None:
            end = begin + place * encoding.width
            yield first, end, number, part, joint
            joint = (
                ord("\n") if encoding.units(read(end, end + encoding.width))[0] == encoding.unit("\n") else ord(" ")
            )
            first = end + encoding.width
        else:
            decoder = codecs.getincrementaldecoder(encoding.name)("replace")
            decoder.decode(read(first, end))
            end -= len(decoder.getstate()[0])  # bytes of an incomplete character
            yield first, end, number, part, joint
            first, joint = end, INSIDE_WORD
    yield first, last, number, part + 1, joint


def _between_words(units: np.ndarray, encoding: FileEncoding) -> int | None:
    """Return the place of the last single space or line feed between two characters that are not white space."""
    solid = encoding.solid(" \t\r\n\x0b\x0c")
    after = solid.copy()
    after[list(_MAYBE_SPACE) if encoding.width == 1 else 255] = False
    newline = units == encoding.unit("\n")
    ends_line = newline[1:-1] & (units[:-2] == encoding.unit("\r"))
    space = (newline | (units == encoding.unit(" ")))[1:-1]
    places = np.flatnonzero(space & (solid[units[:-2]] | ends_line) & after[units[2:]])
    return int(places[-1]) + 1 if len(places) else None


def has_long_word(text: str) -> bool:
    """Return whether a text has `LONG_WORD` or more letters and digits in a row."""
    # Such a word covers at least one of the places that are looked at.
    for place in range(LONG_WORD - 1, len(text), LONG_WORD):
        before = text[place - LONG_WORD + 1 : place + 1][::-1]
        after = text[place + 1 : place + LONG_WORD]
        if sum(_WORD.match(side).end() for side in (before, after)) >= LONG_WORD:
            return True
    return False


@cache
def _tables(encoding: FileEncoding, blanks: str) -> tuple[int, np.ndarray]:
    """Return the code unit of a line feed, and which ones are not blank; a source may have very many files."""
    return encoding.unit("\n"), encoding.solid(blanks)


class _Finder:
    """Search for documents in windows of a file; what is unfinished at the end of a window is kept as offsets."""

    def __init__(self, encoding: FileEncoding, rule: str):
        self.encoding, self.rule = encoding, rule
        self.newline, self.solid = _tables(encoding, " \t\r\n" if rule == "paragraphs" else " \t\r\n\x0b\x0c")
        self.place = self.line = encoding.mark
        self.line_is_solid = False
        self.lines = 0
        self.open: int | None = None
        self.end = 0
        self.found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take(self, window: bytes) -> None:
        """Search the next window."""
        units = self.encoding.units(window)
        if not len(units):
            return
        feeds = np.flatnonzero(units == self.newline)
        starts = np.concatenate([[0], feeds + 1])
        starts = starts[starts < len(units)]
        solid = np.logical_or.reduceat(self.solid[units], starts)
        solid[0] |= self.line_is_solid
        first = self.place + starts * self.encoding.width
        first[0] = self.line
        complete = len(feeds)
        self.place += len(units) * self.encoding.width
        if len(starts) > complete:
            self.line, self.line_is_solid = int(first[-1]), bool(solid[-1])
        else:
            self.line, self.line_is_solid = self.place, False
        if complete:
            last = self.place - (len(units) - feeds) * self.encoding.width
            self._lines(first[:complete], last, solid[:complete])
        self.lines += complete

    def documents(self) -> Documents:
        """Return what was found."""
        if self.rule == "files" and self.open is not None:
            self.found.append(tuple(np.array([value]) for value in (self.open, self.end, 1)))
        parts = zip(*self.found, strict=True) if self.found else [[], [], []]
        first, last, number = (np.concatenate([np.empty(0, np.int64), *part]) for part in parts)
        if self.rule == "paragraphs":
            number = np.arange(1, len(first) + 1)
        nothing = np.zeros(len(first), dtype=np.int64)
        return Documents(first, last, number, nothing, nothing)

    def _lines(self, first: np.ndarray, last: np.ndarray, solid: np.ndarray) -> None:
        """Take complete lines: their first bytes, the bytes after their last ones, and whether they are not blank."""
        if self.rule == "lines":
            kept = np.flatnonzero(solid)
            self.found.append((first[kept], last[kept], self.lines + kept + 1))
        elif self.rule == "files":
            kept = np.flatnonzero(solid)
            if len(kept):
                self.open = int(first[kept[0]]) if self.open is None else self.open
                self.end = int(last[kept[-1]])
        else:
            before = np.concatenate([[self.open is not None], solid[:-1]])
            starts = first[solid & ~before]
            ends = np.concatenate([[self.end], last[:-1]])[before & ~solid]
            if self.open is not None:
                starts = np.concatenate([[self.open], starts])
            self.found.append((starts[: len(ends)], ends, ends))
            self.open = int(starts[-1]) if len(starts) > len(ends) else None
            self.end = int(last[-1])
