"""One run at a time in a folder: two would write the same checkpoints and the same log."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from pathlib import Path


logger = logging.getLogger(__name__)

LOCK = ".lock"


class FolderInUseError(RuntimeError):
    """Another run is writing in the folder; the message names it."""


class RunLock:
    """Keeps the folder of a run for this process, until `release` or until the process ends in whatever way.

    The lock is the operating system's, so that one whose process was killed does not stay. It is of the kind that
    belongs to the process and not to the open file: the workers of a killed run hold nothing.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = Path(folder), Path(folder) / LOCK
        self.descriptor: int | None = None

    def hold(self) -> None:
        """Takes the folder, which is made where it is missing.

        Raises:
            FolderInUseError: another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FolderInUseError(
                    f"The folder {self.folder} is in use by another run ({holder(self.path)}). Wait until it has "
                    "ended, stop it, or choose another output_dir."
                ) from None
            logger.warning(
                "The folder %s cannot be locked (%s): take care that no other run writes in it.",
                self.folder,
                error.strerror,
            )
            return
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"pid": os.getpid(), "host": platform.node(), "since": since}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(entry).encode(), 0)

    def release(self) -> None:
        """Lets another run have the folder."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def holder(path: Path) -> str:
    """Who wrote the lock file last, for a message."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on {entry['host']} since {entry['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which one is not known"
