"""Files on this machine or on a server, as fsspec names them: `s3://`, `hf://`, `https://`, `memory://`.

Local paths are literal: brackets, asterisks and percent signs mean nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO


def is_url(path: str | Path) -> bool:
    """Return whether a path names a file on a server."""
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading."""
    if not is_url(path):
        return open(path, "rb")
    import fsspec
    import huggingface_hub  # noqa: F401  (registers hf://)

    # The readers request what they need; reading ahead would fetch the columns that are left out.
    return fsspec.open(path, "rb", cache_type="none", expand=False).open()


def list_url(url: str) -> list[tuple[str, str]]:
    """Return the files below a URL and their paths from there, or the URL itself if it is a file.

    Servers of `http://` and `https://` list nothing: their URLs are files.

    Raises:
        FileNotFoundError: If there is nothing.
    """
    import fsspec
    import huggingface_hub  # noqa: F401

    system, path = fsspec.core.url_to_fs(url)
    if url.startswith(("http://", "https://")) or system.isfile(path):
        return [(url, "")]
    found = sorted(system.find(path))
    if not found:
        raise FileNotFoundError(f"There are no files below {url}.")
    root = path.rstrip("/") + "/"
    names = [(system.unstrip_protocol(name), name.removeprefix(root)) for name in found]
    return [(file, name) for file, name in names if not any(part.startswith(".") for part in name.split("/"))]


def stamp_of(path: str | Path) -> str:
    """Return a string that changes with a file."""
    if not is_url(path):
        stat = os.stat(path)
        return f"{path} {stat.st_size} {stat.st_mtime_ns}"
    import fsspec

    system, name = fsspec.core.url_to_fs(path)
    return f"{path} {system.ukey(name)}"


def stamps_of(paths: Iterable[str | Path]) -> str | None:
    """Return a string that changes with any of the files, or None if one does not exist."""
    try:
        return "\n".join(map(stamp_of, paths))
    except OSError:
        return None


def is_damage(error: BaseException, path: str | Path) -> bool:
    """Return whether an error of a reader means that the file is damaged, not that its server cannot be reached."""
    import pyarrow

    if isinstance(error, MemoryError):
        return False
    if not is_url(path) or isinstance(error, pyarrow.ArrowException | ValueError | EOFError):
        return True
    return type(error) is OSError and error.errno is None  # Arrow reports some damage so


def problem_of(path: str | Path, error: BaseException | str, place: str = "") -> Any:
    """Return the `BadSample` for what cannot be read in a file."""
    from d2v_train.data.bad_samples import BadSample

    reason = error if isinstance(error, str) else f"{type(error).__name__}: {error}".splitlines()[0]
    return BadSample("unreadable", f"{path}{f', {place}' if place else ''}: {reason}")
