"""Atomic writing of files and folders.

Each is written as a hidden draft (`.NAME.draft`) beside its destination, flushed to the disk and renamed, so that a
kill or a crash of the machine leaves the previous content. A draft that a kill left is overwritten.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from d2v_train.support.storage import writing


def write_text(path: str | Path, text: str, what: str | None = None) -> None:
    """Write a file as UTF-8; arguments and errors are those of `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), what)


def write_json(
    path: str | Path, content: Any, what: str | None = None, default: Callable[[Any], Any] | None = None
) -> None:
    """Write a value as JSON; `default` is that of `json.dumps`, arguments and errors are those of `write_bytes`."""
    write_text(path, json.dumps(content, indent=1, default=default) + "\n", what)


def write_bytes(path: str | Path, content: bytes, what: str | None = None) -> None:
    """Write a file.

    Args:
        path: Path of the file; its folder is made if it is missing.
        content: Content of the file.
        what: Description of the content for errors. Default: the name of the file.

    Raises:
        WriteError: The file cannot be written; the previous one is unchanged.
    """
    path = Path(path)
    with writing(what or path.name, path.parent), write_file(path) as file:
        file.write(content)


@contextmanager
def write_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing, which replaces the one at `path` at the end of the `with` block.

    Args:
        path: Path of the file; its folder is made if it is missing.

    Yields:
        The open draft. After an exception it is removed, and the previous file is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    flush(path.parent)


@contextmanager
def write_folder(folder: str | Path) -> Iterator[Path]:
    """Make a folder to write into, which replaces `folder` at the end of the `with` block.

    Args:
        folder: The destination. Its parent is made if it is missing.

    Yields:
        An empty draft. After an exception it is removed, and the previous folder is unchanged.
    """
    folder = Path(folder)
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_of(path: Path) -> Path:
    """Return where the draft of a file or folder is written: beside it, so that renaming copies nothing."""
    return path.with_name(f".{path.name}.draft")


def put_in_place(draft: Path, folder: Path) -> None:
    """Flush a finished draft and rename it to its folder, before the old folder is removed."""
    for path in (*draft.rglob("*"), draft):
        flush(path)
    old = _old(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        draft.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    flush(folder.parent)
    if old.exists():
        shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; a kill in between leaves no part of it under its name."""
    old = _old(folder)
    folder.rename(old)
    shutil.rmtree(old)


def _old(folder: Path) -> Path:
    # Deleting takes longer than renaming, and an interruption would leave half of the folder.
    return folder.with_name(f".{folder.name}.old")


def flush(path: Path) -> None:
    """Flush a file or folder to the disk, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
