"""Errors for folders that cannot be written: full disk, quota, missing permission, lost drive."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from d2v_train.support.text import readable_bytes


logger = logging.getLogger(__name__)


class WriteError(RuntimeError):
    """Error for something that cannot be written; the message names content, folder, reason and free space."""


@contextmanager
def writing(what: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Replace the operating system's errors by a `WriteError` that explains them.

    Args:
        what: Description of the content, for the message.
        folder: Destination.
        advice: Advice in the message. Default: to make room or repair the folder, and repeat the command.

    Raises:
        WriteError: Instead of `OSError` and the errors of libraries for it.
    """
    try:
        yield
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise WriteError(write_failure(what, folder, error, advice)) from error


def is_write_failure(error: BaseException) -> bool:
    """Return whether an exception comes from a file that could not be written.

    torch and safetensors write in C++ and Rust, and raise their own errors.
    """
    return _refusal(error) is not None or "PytorchStreamWriter" in str(error)


def _refusal(error: BaseException | None) -> str | None:
    """Return the operating system's reason behind a library's error; None if there is none."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        from_rust = re.search(r"([^:]+) \(os error \d+\)", str(error))
        if from_rust:
            return from_rust[1].strip()
        error = error.__cause__ or error.__context__
    return None


def write_failure(what: str, folder: Path, error: BaseException, advice: str = "", needed: int = 0) -> str:
    """Return a message about something that could not be written.

    Args:
        what: Description of the content, with its article.
        folder: Destination.
        error: The exception.
        advice: Advice in the message. Default: to make room or repair the folder, and repeat the command.
        needed: Size of the content in bytes; 0 if unknown.
    """
    reason = _refusal(error) or " ".join(str(error).split()).rstrip(".")
    takes = f"it takes {readable_bytes(needed)}, " if needed else ""
    advice = advice or "Make room or repair the folder, then run the same command again."
    return f"{what} cannot be written to {folder}: {reason} ({takes}{free_text(folder)}). {advice}"


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes for a folder, without quotas; None if unknown."""
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except OSError:
            continue
    return None


def free_text(folder: Path) -> str:
    """Return the free space for a folder, for a message."""
    free = free_bytes(Path(folder))
    return "the free space is unknown" if free is None else f"{readable_bytes(free)} are free"


def check_writable(folder: Path) -> None:
    """Write a file into a folder, which is made if it is missing, and remove it again.

    Raises:
        WriteError: The folder cannot be written.
    """
    with writing("A first file", folder, "Choose another output_dir, or repair the permissions of this one."):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=".writable_", dir=folder)
        try:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(path)


def warn_of_little_room(folder: Path, checkpoint: int, count: int) -> bool:
    """Warn at the start if the checkpoints of a run may not fit on the disk.

    Args:
        folder: Their folder; its present content counts as theirs.
        checkpoint: Size of one in bytes.
        count: Largest number at the same time.

    Returns:
        Whether there is enough room.
    """
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = free_bytes(folder)
    if free is None or free + taken >= checkpoint * count:
        return True
    logger.warning(
        "There may be too little space for checkpoints in %s: up to %d of about %s exist at the same time, in all %s, "
        "and %s are free. Free some space, choose another output_dir, or lower checkpoints.keep_last.",
        folder,
        count,
        readable_bytes(checkpoint),
        readable_bytes(checkpoint * count),
        readable_bytes(free + taken),
    )
    return False
