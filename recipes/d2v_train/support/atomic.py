"""Files and folders that appear whole or not at all.

Each is written as a draft beside its place, flushed to the disk and renamed, so that a kill or a crash of the machine
at any moment leaves what was there before. A draft is hidden (`.NAME.draft`); one that a kill left behind is
overwritten.
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
        path: of the file; its folder is made where it is missing.
        content: of the file.
        what: what is written, for the message of an error; default: the name of the file.

    Raises:
        WriteError: it cannot be written; what was there is as it was.
    """
    path = Path(path)
    with writing(what or path.name, path.parent), write_file(path) as file:
        file.write(content)


@contextmanager
def write_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing, which replaces the one at `path` at the end of the `with` block.

    Args:
        path: of the file; its folder is made where it is missing.

    Yields:
        the open draft. If anything is raised, it is removed, and what was at `path` is as it was.
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
        folder: the place. The folder around it is made where it is missing.

    Yields:
        an empty draft. If anything is raised, it is removed, and what was at `folder` is as it was.
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
    """Flush a finished draft and give it the name of its folder; what was there is removed only after that."""
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
    """Have the disk hold what was written to a file or folder, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
