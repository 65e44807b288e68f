"""One file of text: its encoding, where its documents lie, and their content, from memory or in place."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub.utils import WeakFileLock

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.text_lines import (
    WINDOW_BYTES,
    Documents,
    FileEncoding,
    cut_documents,
    file_encoding,
    find_documents,
    unmarked_wide_encoding,
)
from d2v_train.support.atomic import write_file


PLAIN_SUFFIXES = (".txt", ".text")
"""Suffixes of plain text."""
COMPRESSIONS = {".gz": gzip, ".bz2": bz2, ".xz": lzma}
"""Modules that open compressed files, by the last suffix."""
_HEAD_BYTES = 4096


class TextFile:
    """A file of text.

    Args:
        path: The file; compressed if it ends in a suffix of `COMPRESSIONS`.
        shown: Its name for reports.
        encoding: Encoding, unless the file begins with a byte order mark.
        in_memory: Whether its content is kept in memory. Otherwise documents are read in place; a compressed file is
            first unpacked into the cache of the `datasets` library.

    Attributes:
        content: Its bytes, or None if they are not in memory.
        is_plain: Whether it is plain text, not JSON.
    """

    def __init__(self, path: str | Path, shown: str, encoding: str = "utf-8", in_memory: bool = False):
        self.path, self.shown, self.wanted = os.fspath(path), shown, encoding
        module = COMPRESSIONS.get(os.path.splitext(self.path)[1].lower())
        self.content: bytes | None = None
        if in_memory:
            with (module or _Uncompressed).open(path, "rb") as file:
                self.content = file.read()
        self._place = self.path if module is None or in_memory else _unpacked(self.path, module)
        self.is_plain = is_plain_text(self.path)
        self._opened: BinaryIO | None = None
        self._counted = (0, 0)

    @cached_property
    def head(self) -> bytes:
        """First bytes of the file."""
        return self.read(0, _HEAD_BYTES)

    @cached_property
    def encoding(self) -> FileEncoding:
        """Its encoding."""
        return file_encoding(self.head, self.wanted)

    @property
    def problem(self) -> str | None:
        """Reason why the file as a whole cannot be read, or None."""
        wide = unmarked_wide_encoding(self.head) if self.encoding.width == 1 else None
        if wide is None:
            return None
        return f"{wide.upper()} without a byte order mark: set the option `encoding` to {wide}"

    def read(self, first: int, last: int) -> bytes:
        """Return the bytes from `first` to before `last`."""
        if self.content is not None:
            return self.content[first:last]
        if self._opened is None:
            self._opened = open(self._place, "rb")
        # Other processes share the position of the open file; this does not use it.
        return os.pread(self._opened.fileno(), last - first, first)

    def close(self) -> None:
        """Close the file; it is opened again when it is read."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open file."""
        return self.__dict__ | {"_opened": None}

    def windows(self) -> Iterator[bytes]:
        """Yield the file after its byte order mark in pieces of `WINDOW_BYTES`."""
        place = self.encoding.mark
        if self.content is not None:
            for start in range(place, len(self.content), WINDOW_BYTES):
                yield self.content[start : start + WINDOW_BYTES]
            return
        if len(self.head) < _HEAD_BYTES:
            yield self.head[place:]
            return
        with open(self._place, "rb") as file:
            file.seek(place)
            while window := file.read(WINDOW_BYTES):
                yield window

    def documents(self, rule: str) -> Documents:
        """Return where its documents lie, see `find_documents`; those of plain text in parts if they are long."""
        found = find_documents(self.windows(), self.encoding, rule)
        self.__dict__.pop("head", None)  # a source may have very many files
        return cut_documents(found, self.encoding, self.read) if self.is_plain else found

    def text(self, first: int, last: int) -> str:
        """Return the text between two bytes.

        Raises:
            BadSample: If it is in another encoding.
        """
        content = self.read(first, last)
        try:
            text = content.decode(self.encoding.name)
        except UnicodeDecodeError as error:
            name = self.encoding.name.upper()
            raise BadSample(
                "not UTF-8" if name == "UTF-8" else "unreadable",
                f"line {self._line_at(first + error.start)} of {self.shown} is not {name} (byte "
                f"0x{content[error.start]:02x}, {error.reason}): set the option `encoding` to the encoding of the "
                "file, such as latin-1",
            ) from error
        return text.replace("\r\n", "\n").removeprefix("\ufeff")

    def _line_at(self, place: int) -> int:
        """Return the number of the line, from 1, that holds a byte."""
        done, lines = self._counted if self._counted[0] <= place else (0, 0)
        newline = "\n".encode(self.encoding.name)
        while done < place:
            end = min(done + WINDOW_BYTES, place)
            window = self.read(done, end)
            if self.encoding.width == 1:
                lines += window.count(newline)
            else:
                lines += int((self.encoding.units(window) == self.encoding.unit("\n")).sum())
            done = end
        self._counted = (done, lines)
        return lines + 1


class _Uncompressed:
    open = staticmethod(open)


def text_suffix(name: str) -> str:
    """Return the suffix of a file in lower case, without that of a compression: ".txt" of a.TXT.gz."""
    name = name.lower()
    start = name.rfind(".")
    # This is asked for very many files, and `splitext` is slow.
    if start > 0 and name[start - 1] not in "/." and "/" not in name[start:] and name[start:] not in COMPRESSIONS:
        return name[start:]
    stem, suffix = os.path.splitext(name)
    return os.path.splitext(stem)[1] if suffix in COMPRESSIONS else suffix


def is_plain_text(name: str) -> bool:
    """Return whether a text file holds plain text, not JSON."""
    return text_suffix(name) in PLAIN_SUFFIXES


def _unpacked(path: str, module: Any) -> str:
    """Return the unpacked copy of a file, made once by one process of a machine."""
    from datasets.config import HF_DATASETS_CACHE

    stat = os.stat(path)
    identity = f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16)
    copy = Path(HF_DATASETS_CACHE) / "data2vec_text" / digest.hexdigest()
    copy.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(copy.with_suffix(".lock")):
        if not copy.is_file():
            with module.open(path, "rb") as source, write_file(copy) as file:
                shutil.copyfileobj(source, file, WINDOW_BYTES)
    return str(copy)
