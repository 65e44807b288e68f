"""One run at a time in a folder: two would write the same checkpoints and the same log."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path


logger = logging.getLogger(__name__)

LOCK = ".lock"


class FolderInUseError(RuntimeError):
    """Error for a folder that another run is writing to; the message names it."""


class RunLock:
    """Lock of the folder of a run, until `release` or the end of the process.

    Two locks, each for what the other cannot do: that of the folder itself stays when the lock file is removed, that
    of the file works on network file systems too and names its holder. The operating system releases both when a
    process is killed; the workers of a run close the folder, so that those of a killed run do not hold it.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = Path(folder), Path(folder) / LOCK
        self.descriptors: list[int] = []

    def hold(self) -> None:
        """Lock the folder, which is made if it is missing.

        Raises:
            FolderInUseError: Another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        locked = self._lock(self.folder, os.O_RDONLY | os.O_DIRECTORY, fcntl.flock)
        if locked is None:
            os.register_at_fork(after_in_child=self.release)
        problem = self._lock(self.path, os.O_RDWR | os.O_CREAT, fcntl.lockf)
        if problem is not None:
            if locked is not None:
                logger.warning(
                    "The folder %s cannot be locked (%s): make sure that no other run writes to it.",
                    self.folder,
                    problem.strerror,
                )
            return
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        entry = {"pid": os.getpid(), "host": platform.node(), "since": since}
        os.ftruncate(self.descriptors[-1], 0)
        os.pwrite(self.descriptors[-1], json.dumps(entry).encode(), 0)

    def _lock(self, path: Path, flags: int, lock: Callable[[int, int], None]) -> OSError | None:
        """Lock a file or folder; return why the file system cannot, None if it is locked."""
        descriptor = os.open(path, flags, 0o644)
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return error
            self.release()
            raise FolderInUseError(
                f"The folder {self.folder} is in use by another run ({holder(self.path)}). Wait until it has "
                "ended, stop it, or choose another output_dir."
            ) from None
        self.descriptors.append(descriptor)
        return None

    def release(self) -> None:
        """Release the lock; in a forked process, only forget it."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def holder(path: Path) -> str:
    """Return who wrote the lock file last, for a message."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on {entry['host']} since {entry['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
