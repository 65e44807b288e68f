"""Rows of WebDataset tar files, read where they lie in the archive.

The files of a sample follow each other in the archive and share the name up to the first dot after the last slash:
`0001.jpg`, `0001.cls`, `0001.json`. What follows that dot names the column. Fields of a .json become columns as well.

The webdataset builder of the `datasets` library is not used: it copies all files before the first can be read, ends
where an archive is cut off, and asks for the same files in all samples.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.columns import Column, TableRows
from d2v_train.data.files import is_damage, is_url, open_file, problem_of, stamp_of, stamps_of
from d2v_train.support.atomic import write_file, write_json
from d2v_train.support.storage import writing


logger = logging.getLogger(__name__)

TEXT_FIELDS = ("txt", "text", "cls", "label", "caption", "transcript", "cls2", "id", "speaker")
"""Fields whose files are read as text; those of other names are bytes."""
JSON_LOOKED_AT = 100
"""Number of .json files whose fields tell the columns."""
INDEX_KEPT_FROM = 10_000
"""Number of samples from which the index of an archive is kept in the cache; reading it takes seconds."""
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz")


class TarRows(TableRows):
    """The samples of tar files, one archive after another.

    Only names, sizes and offsets are kept in memory. Compressed archives, and those on a server, are first copied to
    the cache of the `datasets` library, uncompressed. An archive that is damaged or cut off ends with one row that
    cannot be read.

    Args:
        files: Paths or URLs.

    Raises:
        ValueError: If none of the files can be read.
    """

    def __init__(self, files: Sequence[str]):
        self.files = [str(file) for file in files]
        self._damage: dict[int, BadSample] = {}
        self._undecoded: dict[int, BadSample] = {}  # texts of `columns` that are not UTF-8
        self._places, indexes, count = [], [], 0
        for file in self.files:
            place, index, problem = "", _Index([], [], [], [], []), None
            try:
                place = _seekable(file)
                index, problem = _kept_index(place, file)
            except Exception as error:  # damaged archives fail in several libraries
                if not is_damage(error, file):
                    raise
                problem = f"{type(error).__name__}: {error}"
            if problem is not None:
                self._damage[count + len(index.names)] = problem_of(file, problem)
                index = index.with_bad_end(os.path.basename(file))
                logger.warning("A file is damaged; its end counts as one bad sample: %s: %s", file, problem)
            self._places.append(place)
            indexes.append(index)
            count += len(index.names)
        if count == len(self._damage):
            first = next(iter(self._damage.values()), None)
            reason = "There are no samples in the tar files" if first is None else first.detail
            raise ValueError(f"{reason}. Expected a tar file of samples, such as 0001.jpg and 0001.cls.")
        self._join(indexes)
        self._forget()
        self._describe()

    def __len__(self) -> int:
        """Return the number of samples of all files."""
        return len(self._names)

    def column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for row in range(len(self)):
            try:
                values.append(self._cell(row, name))
            except BadSample as problem:
                if name in self.columns:
                    self._undecoded[row] = problem
                else:
                    logger.warning("The field %r is missing: %s", name, problem.detail)
                values.append(None)
        return values

    def cells(self, row: int) -> list[Any]:
        if row in self._damage:
            raise self._damage[row].with_traceback(None)
        return [self._cell(row, name) for name in self.columns]

    def folder(self, row: int) -> str:
        return os.path.dirname(self.files[self._file[row]])

    def problems(self) -> dict[int, BadSample]:
        return self._damage | self._undecoded

    @property
    def names(self) -> list[str]:
        """Archive and name of each sample."""
        return self._names

    def lost_files(self) -> list[str]:
        counts = np.bincount(self._file, minlength=len(self.files))
        return [self.files[self._file[row]] for row in self._damage if counts[self._file[row]] == 1]

    def stamp(self) -> str | None:
        return stamps_of(self.files)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open archive."""
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._opened: tuple[int, int, Any] | None = None  # process, archive and its file
        self._object_of: tuple[int, dict[str, Any]] = (-1, {})

    def _join(self, indexes: Sequence[_Index]) -> None:
        """Set names, files and members of the samples of all archives."""
        self._names = [name for index in indexes for name in index.names]
        self._file = np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index.names) for index in indexes])
        fields = list(dict.fromkeys(field for index in indexes for field in index.fields))
        place = {field: number for number, field in enumerate(fields)}
        self._fields = fields
        self._field = np.array([place[field] for index in indexes for field in index.fields], dtype=np.int32)
        self._offset = np.array([offset for index in indexes for offset in index.offsets], dtype=np.int64)
        self._size = np.array([size for index in indexes for size in index.sizes], dtype=np.int64)
        self._end = np.cumsum([count for index in indexes for count in index.counts])

    def _members(self, row: int) -> dict[str, int]:
        """Return the numbers of the members of a sample by field."""
        first = int(self._end[row - 1]) if row else 0
        return {self._fields[self._field[number]]: number for number in range(first, int(self._end[row]))}

    def _describe(self) -> None:
        """Set the columns: the fields of the samples, and those of the objects in their .json files."""
        self.schema = {
            field: Column("string" if field.rpartition(".")[2] in TEXT_FIELDS else "binary") for field in self._fields
        }
        objects: dict[str, Any] = {}
        for number, field in enumerate(self._fields):
            if field.rpartition(".")[2] == "json":
                for member in np.flatnonzero(self._field == number)[:JSON_LOOKED_AT]:
                    found = self._object(int(np.searchsorted(self._end, member, side="right")))
                    objects |= {name: value for name, value in found.items() if objects.get(name) is None}
        kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "struct"}
        for name, value in objects.items():
            self.schema.setdefault(name, Column(kinds.get(type(value), "null")))

    def _cell(self, row: int, name: str) -> Any:
        members = self._members(row)
        if name not in members:
            return None if name in self._fields else self._object(row).get(name)
        content = self._read(row, members[name])
        if self.schema[name].type == "string":
            try:
                text = content.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise BadSample("not UTF-8", f"{self._names[row]}.{name}: {error}") from error
            return _whole(text) if name.rpartition(".")[2] in ("cls", "cls2", "label") else text
        return {"bytes": content, "path": f"{self._names[row]}.{name}"}

    def _object(self, row: int) -> dict[str, Any]:
        """Return the fields of the .json file of a sample."""
        kept, found = self._object_of
        if kept == row:
            return found
        found = {}
        for field, member in self._members(row).items():
            if field.rpartition(".")[2] == "json":
                try:
                    value = json.loads(self._read(row, member))
                    found |= value if isinstance(value, dict) else {}
                except (ValueError, RecursionError) as error:
                    logger.warning("%s.%s is not JSON: %s", self._names[row], field, error)
        self._object_of = (row, found)
        return found

    def _read(self, row: int, member: int) -> bytes:
        number = int(self._file[row])
        opened = self._opened  # another thread may replace it
        if opened is None or opened[:2] != (os.getpid(), number):
            opened = self._opened = (os.getpid(), number, open(self._places[number], "rb"))  # noqa: SIM115 (kept open)
        return os.pread(opened[2].fileno(), int(self._size[member]), int(self._offset[member]))


@dataclass
class _Index:
    """Samples of an archive: names, numbers of members, and fields, offsets and sizes of these."""

    names: list[str]
    counts: list[int]
    fields: list[str]
    offsets: list[int]
    sizes: list[int]

    def with_bad_end(self, name: str) -> _Index:
        """Return the index with a sample without members at its end."""
        return replace(self, names=[*self.names, name], counts=[*self.counts, 0])


def _kept_index(path: str, file: str) -> tuple[_Index, str | None]:
    """Return the index of an archive and what damage ended it; that of a large one is kept in the cache."""
    kept = _cached(path, ".index-1.json")
    if kept.is_file():
        fields = json.loads(kept.read_text(encoding="utf-8"))
        return _Index(*fields["index"]), fields["problem"]
    index, problem = _index_of(path, os.path.basename(file))
    if len(index.names) >= INDEX_KEPT_FROM:
        write_json(kept, {"index": list(vars(index).values()), "problem": problem})
    return index, problem


def _index_of(path: str, shown: str) -> tuple[_Index, str | None]:
    """Return the index of an archive as far as it is whole, and what damage ended it."""
    index, key, seen, size = _Index([], [], [], [], []), None, set(), os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # it would keep them all
                folder, slash, name = member.name.rpartition("/")
                stem, dot, field = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                if member.offset_data + member.size > size:
                    return index, f"the archive is cut off in {member.name}"
                found, field = folder + slash + stem, field.lower()
                if found != key or field in seen:
                    key, seen = found, set()
                    index.names.append(f"{shown}/{found}")
                    index.counts.append(0)
                index.counts[-1] += 1
                seen.add(field)
                index.fields.append(field)
                index.offsets.append(member.offset_data)
                index.sizes.append(member.size)
            end = archive.offset
    except (tarfile.TarError, OSError, ValueError) as error:
        return index, f"{type(error).__name__}: {error}"
    return index, "the archive is cut off: its end mark is missing" if end + tarfile.BLOCKSIZE > size else None


def _cached(file: str, suffix: str) -> Path:
    """Return the path of something about a file in the cache, another one when the file changes."""
    from datasets.config import HF_DATASETS_CACHE

    digest = hashlib.blake2b(stamp_of(file).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Path(HF_DATASETS_CACHE) / "data2vec_tables" / f"{digest}{suffix}"


def _whole(text: str) -> int | str | None:
    """Return the content of a .cls file: a class id or a name."""
    return (int(text) if text.removeprefix("-").isdecimal() else text) if text else None


def _seekable(file: str) -> str:
    """Return the path of an archive that any part can be read of: itself, or its copy in the cache."""
    if not is_url(file):
        with open(file, "rb") as source:
            if not source.read(1):
                raise ValueError("the file is empty")
        if not file.lower().endswith(_COMPRESSED):
            return file
    from huggingface_hub.utils import WeakFileLock

    path = _cached(file, ".tar")
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_suffix(".lock")):
        if not path.is_file():
            with writing(f"the copy of {file}", path.parent), write_file(path) as target:
                for part in _uncompressed(file):
                    target.write(part)
    return str(path)


def _uncompressed(file: str) -> Iterator[bytes]:
    """Yield the content of a file, decompressed as far as it is whole."""
    import bz2
    import gzip
    import lzma

    openers = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    with open_file(file) as raw:
        opener = openers.get(os.path.splitext(file)[1].lower())
        source = raw if opener is None else opener(raw)
        try:
            while part := source.read(shutil.COPY_BUFSIZE):
                yield part
        except (EOFError, OSError, lzma.LZMAError) as error:
            if not is_damage(error, file):
                raise
            logger.warning("%s cannot be decompressed to its end: %s", file, error)
