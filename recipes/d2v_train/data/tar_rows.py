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
from pathlib import Path
from typing import Any

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.columns import Column, TableRows
from d2v_train.data.files import is_damage, is_url, open_file, problem_of, stamp_of, stamps_of
from d2v_train.support.atomic import write_file
from d2v_train.support.storage import writing


logger = logging.getLogger(__name__)

TEXT_FIELDS = ("txt", "text", "cls", "label", "caption", "transcript", "cls2", "id", "speaker")
"""Fields whose files are read as text; those of other names are bytes."""
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

    is_untyped = False

    def __init__(self, files: Sequence[str]):
        self.files = [str(file) for file in files]
        self._places = []
        self._samples: list[tuple[int, dict[str, tuple[int, int]]]] = []
        self._damage: dict[int, BadSample] = {}
        self._names: list[str] = []
        for number, file in enumerate(self.files):
            try:
                self._places.append(_seekable(file))
                self._index(number)
            except Exception as error:  # damaged archives fail in several libraries
                if not is_damage(error, file):
                    raise
                if len(self._places) == number:
                    self._places.append("")
                self._damage[len(self._samples)] = problem_of(file, error)
                self._samples.append((number, {}))
                self._names.append(file)
                logger.warning("A file is damaged; its end counts as one bad sample: %s: %s", file, error)
        if len(self._samples) == len(self._damage):
            first = next(iter(self._damage.values()), None)
            reason = "There are no samples in the tar files" if first is None else first.detail
            raise ValueError(f"{reason}. Expected a tar file of samples, such as 0001.jpg and 0001.cls.")
        self._describe()

    def __len__(self) -> int:
        """Return the number of samples of all files."""
        return len(self._samples)

    def column(self, name: str) -> list[Any]:
        return [self._cell(row, name) for row in range(len(self))]

    def cells(self, row: int) -> list[Any]:
        if row in self._damage:
            raise self._damage[row].with_traceback(None)
        return [self._cell(row, name) for name in self.columns]

    def folder(self, row: int) -> str:
        return os.path.dirname(self.files[self._samples[row][0]])

    def problems(self) -> dict[int, BadSample]:
        return dict(self._damage)

    @property
    def names(self) -> list[str]:
        """Archive and name of each sample."""
        return self._names

    def stamp(self) -> str | None:
        return stamps_of(self.files)

    def _index(self, number: int) -> None:
        """Find the samples of an archive."""
        path, key = self._places[number], None
        size = os.path.getsize(path)
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, slash, name = member.name.rpartition("/")
                stem, dot, field = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                if member.offset_data + member.size > size:
                    raise ValueError(f"the archive is cut off in {member.name}")
                found, field = folder + slash + stem, field.lower()
                if found != key or field in self._samples[-1][1]:
                    key = found
                    self._samples.append((number, {}))
                    self._names.append(f"{os.path.basename(self.files[number])}/{found}")
                self._samples[-1][1][field] = (member.offset_data, member.size)
                archive.members = []  # it would keep them all
            end = archive.offset
        if end + tarfile.BLOCKSIZE > size:
            raise ValueError("the archive is cut off: its end mark is missing")

    def _describe(self) -> None:
        """Set the columns: the fields of the samples, and those of the objects in their .json files."""
        self.schema = {}
        self._kept_objects: tuple[int, Any] = (-1, None)
        objects: dict[str, Any] = {}
        for row, (_, fields) in enumerate(self._samples):
            for field in fields:
                if field not in self.schema:
                    last = field.rpartition(".")[2]
                    self.schema[field] = Column("string" if last in TEXT_FIELDS else "binary")
                    if last == "json":
                        objects |= self._object(row)
        kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "list", dict: "struct"}
        for name, value in objects.items():
            self.schema.setdefault(name, Column(kinds.get(type(value), "null")))

    def _cell(self, row: int, name: str) -> Any:
        fields = self._samples[row][1]
        if name not in fields:
            return self._object(row).get(name)
        content = self._read(row, name)
        if self.schema[name].type == "string":
            text = content.decode("utf-8-sig", "replace").strip()
            return _whole(text) if name.rpartition(".")[2] in ("cls", "cls2", "label") else text
        return {"bytes": content, "path": f"{self._names[row]}.{name}"}

    def _object(self, row: int) -> dict[str, Any]:
        """Return the fields of the .json file of a sample."""
        kept, found = self._kept_objects
        if kept == row:
            return found
        found = {}
        for field in self._samples[row][1]:
            if field.rpartition(".")[2] == "json":
                try:
                    value = json.loads(self._read(row, field))
                    found |= value if isinstance(value, dict) else {}
                except (ValueError, RecursionError) as error:
                    logger.warning("%s.%s is not JSON: %s", self._names[row], field, error)
        self._kept_objects = (row, found)
        return found

    def _read(self, row: int, name: str) -> bytes:
        number, fields = self._samples[row]
        offset, size = fields[name]
        with open(self._places[number], "rb") as file:
            file.seek(offset)
            return file.read(size)


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
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.utils import WeakFileLock

    digest = hashlib.blake2b(stamp_of(file).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    path = Path(HF_DATASETS_CACHE) / "data2vec_tables" / f"{digest}.tar"
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
