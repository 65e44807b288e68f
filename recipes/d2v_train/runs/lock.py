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
    """Error for a folder that another run is writing to; the message names it."""


class RunLock:
    """Lock of the folder of a run, until `release` or the end of the process.

    The operating system releases the lock of a killed process. It belongs to the process and not to the open file, so
    that the workers of a killed run do not hold it.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = Path(folder), Path(folder) / LOCK
        self.descriptor: int | None = None

    def hold(self) -> None:
        """Lock the folder, which is made if it is missing.

        Raises:
            FolderInUseError: Another process holds it.
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
                "The folder %s cannot be locked (%s): make sure that no other run writes to it.",
                self.folder,
                error.strerror,
            )
            return
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"pid": os.getpid(), "host": platform.node(), "since": since}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(entry).encode(), 0)

    def release(self) -> None:
        """Release the lock."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def holder(path: Path) -> str:
    """Return who wrote the lock file last, for a message."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on {entry['host']} since {entry['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
