"""The files below a source, wherever it lies: in a folder, in a zip file, or behind a URL.

A `Listing` names the visible files once, in the order in which every reader takes them: sorted folder by folder. Names
are strings relative to the source, separated by "/"; bytes that are not UTF-8 stay in them as surrogates. No name is
ever treated as a pattern.
"""

from __future__ import annotations

import os
import posixpath
import threading
import zipfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.inventory import first_names
from d2v_train.data.text_lines import file_encoding


class Listing(Protocol):
    """The files of a source.

    Attributes:
        where: Name of the source.
        names: Visible files, sorted.
        left_out: Visible entries that cannot be read by any reader, with the reason, such as broken links.
        hidden: Number of hidden files and folders, which are not listed.
        notes: Facts about the listing that a user should know.
        is_remote: Whether reading a file goes over the network.
        is_list: Whether the source is a single file that may name others, which are then added.
    """

    where: str
    names: list[str]
    left_out: list[tuple[str, str]]
    hidden: int = 0
    notes: list[str]
    is_remote: bool = False
    is_list: bool = False

    @cached_property
    def known(self) -> frozenset[str]:
        """The names, for look-ups."""
        return frozenset(self.names)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    def value(self, name: str) -> Any:
        """Return what the decoders take: a path, or bytes with the name."""

    def path(self, name: str) -> str:
        """Return the path or URL of a file."""

    def relative(self, written: str) -> str:
        """Return the name of an absolute path that lies below the source, or the path itself."""
        return written

    def identity(self, names: Iterable[str]) -> str | None:
        """Return a string that changes with the given files; None if that requires reading them."""


class FolderListing(Listing):
    """The files below a folder; linked folders and files are followed, a folder inside itself is entered once.

    Args:
        root: The folder.
        names: Its files, if they are not to be searched for: a source that is a single file.
    """

    def __init__(self, root: Path | str, names: Sequence[str] | None = None):
        self.root = os.fspath(root)
        self.where = self.root if names is None else os.path.join(self.root, names[0])
        self.names, self.left_out, self.notes, self.hidden = list(names or ()), [], [], 0
        self.is_list = names is not None
        if names is None:
            stat = os.stat(self.root)
            again: list[str] = []
            self._walk(self.root, "", {(stat.st_dev, stat.st_ino)}, again)
            if again:
                shown = first_names(again)
                self.notes.append(f"linked folders ({shown}) show files of the source a second time: {len(again)}")

    def read(self, name: str) -> bytes:
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()

    def value(self, name: str) -> str:
        return os.path.join(self.root, name)

    path = value

    def relative(self, written: str) -> str:
        if written in self.known:
            return written
        for root in dict.fromkeys((self.root, os.path.abspath(self.root), os.path.realpath(self.root))):
            if written.startswith(root.rstrip("/") + "/"):
                return posixpath.normpath(written[len(root.rstrip("/")) + 1 :])
        return written

    def add(self, names: Iterable[str]) -> None:
        """Add the existing ones of the files that the single file of the source names."""
        self.names += [name for name in dict.fromkeys(names) if os.path.isfile(self.value(name))]
        self.__dict__.pop("known", None)

    def identity(self, names: Iterable[str]) -> str | None:
        try:
            stats = [(path, os.stat(path)) for path in map(self.value, names)]
        except OSError:
            return None
        return "\n".join(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)

    def _walk(
        self, folder: str, prefix: str, above: set[tuple[int, int]], again: list[str], is_again: bool = False
    ) -> None:
        """Add the files below a folder.

        Args:
            folder: Its path.
            prefix: Its name in the listing, with a slash at the end, or "".
            above: Device and inode of the folder, and of those that it was entered from.
            again: Takes the links to folders that are below the source anyway.
            is_again: Whether the folder was entered through such a link. Others in it are then not followed: folders
                that link to one another would be listed once for every way through them.
        """
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.left_out.append((prefix or ".", f"a folder that cannot be listed ({error.strerror})"))
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith("."):
                self.hidden += 1
                continue
            try:
                is_file, is_folder = entry.is_file(), entry.is_dir()
            except OSError as error:  # a link to itself
                self.left_out.append((name, f"it cannot be opened ({error.strerror})"))
                continue
            if is_file:
                self.names.append(name)
            elif is_folder:
                stat = entry.stat()
                key = (stat.st_dev, stat.st_ino)
                if key in above:
                    self.left_out.append((name, "a link to a folder that contains it"))
                    continue
                leads_back = entry.is_symlink() and _lies_in(entry.path, self.root)
                if leads_back and is_again:
                    self.left_out.append((name, "a link to a folder of the source, in a linked folder of the source"))
                    continue
                if leads_back:
                    again.append(name)
                self._walk(entry.path, f"{name}/", above | {key}, again, is_again or leads_back)
            else:
                is_link = entry.is_symlink()
                self.left_out.append((name, "a broken link" if is_link else "neither a file nor a folder"))


def visible_files(root: Path) -> list[Path]:
    """Return the files below `root` in sorted order, links followed, without hidden ones and those in hidden folders.

    A folder that contains itself through a link is entered once.
    """
    return [Path(root, name) for name in FolderListing(root).names]


class ZipListing(Listing):
    """The members of a zip file, read in place.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not a zip file, or is incomplete.
    """

    def __init__(self, path: Path | str):
        self.where = os.fspath(path)
        self.left_out, self.notes, self.hidden = [], [], 0
        self._start()
        members: dict[str, str] = {}
        for info in self._zip().infolist():
            name = _member_name(info)
            if info.is_dir():
                continue
            if _is_hidden(name):
                self.hidden += 1
            elif name in members:
                self.notes.append(f"{name} is in the archive more than once; the last one is read")
            members[name] = info.filename
        self.names = sorted((name for name in members if not _is_hidden(name)), key=_by_parts)
        self._members = members

    def read(self, name: str) -> bytes:
        return self._zip().read(self._members[name])

    def value(self, name: str) -> dict[str, Any]:
        if name not in self._members:
            raise BadSample("missing", f"there is no member {name} in {self.where}")
        return {"bytes": self.read(name), "path": name}

    def identity(self, names: Iterable[str]) -> str:
        stat = os.stat(self.where)
        return "\n".join([f"{self.where} {stat.st_size} {stat.st_mtime_ns}", *names])

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the open file."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again when it is needed."""
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._opened: zipfile.ZipFile | None = None
        self._lock, self._process = threading.Lock(), os.getpid()

    def _zip(self) -> zipfile.ZipFile:
        if self._process != os.getpid():  # forked: the parent moves the position in its open file
            self._start()
        with self._lock:
            if self._opened is None:
                try:
                    self._opened = zipfile.ZipFile(self.where)
                except (zipfile.BadZipFile, OSError) as error:
                    raise ValueError(f"{self.where} is not a zip file, or is incomplete: {error}.") from error
            return self._opened


class UrlListing(Listing):
    """The files behind a URL that fsspec opens, such as s3://bucket/folder or hf://datasets/user/name.

    Args:
        url: URL of a folder, or of a single file.

    Raises:
        FileNotFoundError: If there is nothing behind the URL.
        ValueError: If the protocol is unknown, or needs a package that is not installed.
    """

    is_remote = True

    def __init__(self, url: str):
        self.where, self.left_out, self.notes, self.hidden = url, [], [], 0
        system, root = self._system()
        sizes = {root: None}
        if not url.startswith(("http://", "https://")):  # whose servers list nothing
            sizes = {path: info.get("size") for path, info in system.find(root, detail=True).items()}
        if not sizes:
            raise FileNotFoundError(f"There are no files behind {url}. Check the address and the access rights.")
        self.is_single = list(sizes) == [root]
        self._folder = root.rpartition("/")[0] if self.is_single else root.rstrip("/")
        names = {path[len(self._folder) :].lstrip("/"): size for path, size in sizes.items()}
        self.names = sorted((name for name in names if not _is_hidden(name)), key=_by_parts)
        self.hidden = len(names) - len(self.names)
        self._sizes = names

    def read(self, name: str) -> bytes:
        return self._system()[0].cat_file(f"{self._folder}/{name}")

    def relative(self, written: str) -> str:
        base = self.path("")
        return written.removeprefix(base).lstrip("/")

    def path(self, name: str) -> str:
        return self._system()[0].unstrip_protocol(f"{self._folder}/{name}")

    def value(self, name: str) -> dict[str, Any]:
        try:
            return {"bytes": self.read(name), "path": name}
        except FileNotFoundError as error:
            raise BadSample("missing", str(error)) from error

    def identity(self, names: Iterable[str]) -> str:
        return "\n".join([self.where, *(f"{name} {self._sizes.get(name)}" for name in names)])

    def _system(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for each process, and the path in it."""
        import fsspec
        import huggingface_hub  # noqa: F401  (registers hf://)

        try:
            return fsspec.core.url_to_fs(self.where)
        except (ValueError, ImportError) as error:
            raise ValueError(f"The address {self.where} cannot be opened: {error}.") from error


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX/")) or "/." in name


def _lies_in(path: str, root: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(root).rstrip("/") + "/")


def _by_parts(name: str) -> list[str]:
    return name.split("/")


def _member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member; many programs write UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return name.replace("\\", "/").lstrip("/")


class EncodingError(ValueError):
    """A file is not in the encoding that the settings of its source name."""


def decoded_text(content: bytes, encoding: str, shown: str) -> str:
    """Return the text of a file, without a byte order mark, which tells the encoding if there is one.

    Args:
        content: Its bytes.
        encoding: The option `encoding`.
        shown: Name of the file.

    Raises:
        EncodingError: If it is in another encoding; the message names the line.
    """
    found = file_encoding(content[:4], encoding)
    content = content[found.mark :]
    try:
        return content.decode(found.name)
    except UnicodeError as error:
        line = content.count("\n".encode(found.name), 0, getattr(error, "start", 0)) + 1
        raise EncodingError(
            f"Line {line} of {shown} is not {found.name.upper()}: {getattr(error, 'reason', error)}. Set the option "
            "`encoding` to the encoding of the file, such as latin-1."
        ) from error
