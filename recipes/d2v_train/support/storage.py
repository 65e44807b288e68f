"""What a run does when its folder cannot be written: full disk, quota, missing right, a drive that went away."""

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
    """Something cannot be written; the message says what, where, why, and how much room there is."""


@contextmanager
def writing(what: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Turns the operating system's refusal to write into a sentence.

    Args:
        what: what is written, for the message.
        folder: where.
        advice: what to do about it; the same command goes on when it is left out.

    Raises:
        WriteError: in the place of `OSError`, and of what the libraries make of one.
    """
    try:
        yield
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise WriteError(write_failure(what, folder, error, advice)) from error


def is_write_failure(error: BaseException) -> bool:
    """Whether an exception comes from a file that could not be written.

    torch and safetensors write in C++ and Rust, and raise an error of their own.
    """
    return _refusal(error) is not None or "PytorchStreamWriter" in str(error)


def _refusal(error: BaseException | None) -> str | None:
    """What the operating system said, behind whatever a library made of it; None where it said nothing."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        from_rust = re.search(r"([^:]+) \(os error \d+\)", str(error))
        if from_rust:
            return from_rust[1].strip()
        error = error.__cause__ or error.__context__
    return None


def write_failure(what: str, folder: Path, error: BaseException, advice: str = "", needed: int = 0) -> str:
    """Sentence about something that could not be written.

    Args:
        what: what was written, with its article.
        folder: where.
        error: what was raised.
        advice: what to do; by default to make room and start again.
        needed: bytes that it takes; 0 where nobody knows.
    """
    reason = _refusal(error) or " ".join(str(error).split()).rstrip(".")
    takes = f"it takes {readable_bytes(needed)}, " if needed else ""
    advice = advice or "Make room or repair the folder, then give the same command again."
    return f"{what} cannot be written to {folder}: {reason} ({takes}{free_text(folder)}). {advice}"


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written in a folder, as far as the file system tells; quotas are not in it."""
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except OSError:
            continue
    return None


def free_text(folder: Path) -> str:
    """How much room there is, for a message."""
    free = free_bytes(Path(folder))
    return "how much is free is not known" if free is None else f"{readable_bytes(free)} are free"


def check_writable(folder: Path) -> None:
    """Writes a file into a folder, which is made where it is missing, and removes it again.

    Raises:
        WriteError: it is not possible.
    """
    with writing("A first file", folder, "Choose another output_dir, or repair the rights of this one."):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, path = tempfile.mkstemp(prefix=".writable_", dir=folder)
        try:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(path)


def warn_of_little_room(folder: Path, checkpoint: int, count: int) -> bool:
    """Says at the start that the checkpoints of a run may not find room.

    Args:
        folder: where they go; what is in it already counts as theirs.
        checkpoint: bytes of one.
        count: how many are there at the same time at most.

    Returns:
        Whether there is enough room.
    """
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = free_bytes(folder)
    if free is None or free + taken >= checkpoint * count:
        return True
    logger.warning(
        "There may be too little room for checkpoints in %s: %d of about %s are there at the same time, which makes "
        "%s, and %s are free. Make room, choose another output_dir, or lower checkpoints.keep_last.",
        folder,
        count,
        readable_bytes(checkpoint),
        readable_bytes(checkpoint * count),
        readable_bytes(free + taken),
    )
    return False
