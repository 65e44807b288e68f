"""Account of the files of a source: what they are read as, and which are left out and why.

Every visible file below a source is either used or left out with a reason; nothing vanishes without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


SHOWN = 3
"""Number of files that are named per reason in the summary."""


@dataclass
class Inventory:
    """What a source is read as.

    Attributes:
        source: The source as it was given.
        layout: What it is read as, such as "pictures, one folder per class".
        samples: Number of samples by split.
        used: Files that hold samples or describe them.
        left_out: Names of the other files by reason.
    """

    source: str
    layout: str = ""
    samples: dict[str, int] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Record that a file is not used."""
        self.left_out.setdefault(reason, []).append(name)

    @property
    def files(self) -> int:
        """Number of files, used or not."""
        return len(self.used) + sum(map(len, self.left_out.values()))

    def lines(self) -> list[str]:
        """Return the summary: what is read, the samples of each split, and the files left out by reason."""
        counts = ", ".join(f"{name} {count}" for name, count in self.samples.items()) or "none"
        lines = [f"{self.source}: {self.layout}; samples: {counts}"]
        if self.files:
            lines[0] += f"; {len(self.used)} of {self.files} files used"
        for reason, names in self.left_out.items():
            shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            lines.append(f"  not used, {reason}: {len(names)} ({shown})")
        return lines


def visible_files(root: Path) -> list[Path]:
    """Return the files below `root` in sorted order, links followed, without hidden ones and those in hidden folders.

    A folder that contains itself through a link is entered once.
    """
    return sorted(_walk(root, {os.path.realpath(root)}))


def shown_in(path: Path, root: Path) -> str:
    """Return the name of a file of a source for reports."""
    if path == root:
        return path.name
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _walk(folder: Path, above: set[str]) -> Iterable[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _walk(Path(entry.path), above | {real})
            else:
                yield Path(entry.path)
