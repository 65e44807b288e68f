"""Documents of text files as rows: only the offsets of each document are kept, 45 bytes per document.

The same documents are found whether the files are kept in memory or read in place, except that in place the fields of
`.jsonl` are chosen from the first objects of a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.json_lines import choose_fields, parse_line, pick_fields
from d2v_train.data.rows import LazySequence, Rows
from d2v_train.data.tables import SourceSettings
from d2v_train.data.text_lines import INSIDE_WORD, NO_JOINT, PART_BYTES, Documents
from d2v_train.data.text_source_file import TextFile


OBJECTS_LOOKED_AT = 1000


class TextRows(Rows):
    """Documents of text files, one after another.

    Args:
        files: The files, all in memory or all in place.
        settings: Settings of the source: what is a document, and the fields of `.jsonl` files.

    Attributes:
        names: Names of the documents.
        groups: Name of the file of each document.
    """

    def __init__(self, files: Sequence[TextFile], settings: SourceSettings):
        self.files, self.settings = list(files), settings
        self.is_stream = any(file.content is None for file in self.files)
        found = [file.documents(settings.documents if file.is_plain else "lines") for file in self.files]
        self.counts = [len(part.first) for part in found]
        self._file = np.repeat(np.arange(len(found), dtype=np.int32), self.counts)
        self._documents = Documents(*map(np.concatenate, zip(*found, strict=True)))
        self._documents = self._documents._replace(
            part=self._documents.part.astype(np.int32), joint=self._documents.joint.astype(np.int8)
        )
        self._choices = {
            number: choose_fields(list(_first_objects(file, part)), settings, file.shown)
            for number, (file, part) in enumerate(zip(self.files, found, strict=True))
            if not file.is_plain
        }
        for file in self.files:
            file.close()
        self._newest = 0
        self.names = LazySequence(len(self), self._name)
        self.groups = LazySequence(len(self), self._group)

    def __len__(self) -> int:
        """Return the number of rows: documents, or parts of long ones."""
        return len(self._file)

    def __getitem__(self, row: int) -> Any:
        """Return the text of a document or of a part of it, the value of a line of JSON, or a `BadSample`."""
        number = self._file[row]
        file = self.files[number]
        if number != self._newest:  # one open file at a time: a source may have very many
            self.files[self._newest].close()
            self._newest = number
        try:
            text = file.text(self._documents.first[row], self._documents.last[row])
        except BadSample as error:
            return error
        if file.is_plain:
            return text
        value = parse_line(text)
        return pick_fields(value, self._choices[number])["value"] if isinstance(value, dict) else value

    def joint(self, row: int) -> str | None:
        """Return what stood between this part of a document and the one before; None at the start of a document."""
        code = int(self._documents.joint[row])
        return None if code == NO_JOINT else "" if code == INSIDE_WORD else chr(code)

    def long_documents(self) -> list[tuple[str, int, int]]:
        """Return name, number of parts and size in bytes of each document that is read in parts."""
        found = []
        starts = np.flatnonzero(self._documents.part == 1).tolist()
        for row in starts:
            end = row + 1
            while end < len(self) and self._documents.part[end] > 1:
                end += 1
            size = int(self._documents.last[end - 1] - self._documents.first[row])
            found.append((self.names[row].removesuffix(", part 1"), end - row, size))
        return found

    @property
    def identity(self) -> str | None:
        """A string that changes with the fields, the files and what is a document; None for files in memory."""
        if not self.is_stream:
            return None
        stats = [(file.path, os.stat(file.path)) for file in self.files]
        rules = f"{self._choices} {self.settings.documents} {self.settings.encoding} {PART_BYTES}"
        return "\n".join([rules, *(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)])

    def _group(self, row: int) -> str:
        return self.files[self._file[row]].shown

    def _name(self, row: int) -> str:
        rule = self.settings.documents if self.files[self._file[row]].is_plain else "lines"
        name = self._group(row)
        if rule != "files":
            name += f", {'line' if rule == 'lines' else 'document'} {self._documents.number[row]}"
        part = int(self._documents.part[row])
        return f"{name}, part {part}" if part else name


def _first_objects(file: TextFile, documents: Documents) -> Iterator[dict[str, Any]]:
    def values() -> Iterator[Any]:
        for first, last in zip(documents.first, documents.last, strict=True):
            try:
                yield parse_line(file.text(first, last))
            except BadSample:
                continue

    return islice((value for value in values() if isinstance(value, dict)), OBJECTS_LOOKED_AT)
