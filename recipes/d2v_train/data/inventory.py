"""Account of the files of a source: what they are read as, and which are left out and why.

Every visible file below a source is either used or left out with a reason; nothing vanishes without a word.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

SHOWN = 3
"""Number of files that are named per reason in the summary."""


@dataclass
class Inventory:
    """What a source is read as.

    Attributes:
        source: The source as it was given.
        layout: What it is read as, such as "pictures, one folder per class".
        samples: Number of samples by split; None for a split that was not counted.
        used: Files that hold samples or describe them.
        left_out: Names of the other files by reason.
        notes: Sentences about the samples, such as how many files are listed and do not exist.
        hidden: Number of hidden files and folders, which belong to no source.
    """

    source: str
    layout: str = ""
    samples: dict[str, int | None] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hidden: int = 0

    def leave_out(self, name: str, reason: str) -> None:
        """Record that a file is not used."""
        self.left_out.setdefault(reason, []).append(name)

    @property
    def files(self) -> int:
        """Number of files, used or not."""
        return len(self.used) + sum(map(len, self.left_out.values()))

    def lines(self) -> list[str]:
        """Return the summary: what is read, the samples of each split, and the files left out by reason."""
        counts = ", ".join(
            f"{printable(name)} {'(not counted)' if count is None else count}" for name, count in self.samples.items()
        )
        lines = [f"{printable(self.source)}: {printable(self.layout)}; samples: {counts or 'none'}"]
        if self.files:
            lines[0] += f"; {len(self.used)} of {self.files} files used"
        if self.hidden:
            lines[0] += f"; {self.hidden} hidden"
        for reason, names in self.left_out.items():
            lines.append(f"  not used, {printable(reason)}: {len(names)} ({first_names(names)})")
        return lines + [f"  note: {printable(note)}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "source": printable(self.source),
            "layout": printable(self.layout),
            "samples": self.samples,
            "files": self.files,
            "used": [printable(name) for name in self.used],
            "left_out": {reason: [printable(name) for name in names] for reason, names in self.left_out.items()},
            "notes": [printable(note) for note in self.notes],
            "hidden": self.hidden,
        }


def joined_inventory(inventories: Iterable[Inventory]) -> Inventory:
    """Return the account of a source whose splits were opened one by one: the first, with the samples of all."""
    first, *others = inventories
    samples = dict(first.samples)
    for inventory in others:
        for name, count in inventory.samples.items():
            samples[name] = samples.get(name) if count is None else count
    return replace(first, samples=samples)


def log_inventories(datasets: Iterable[Any]) -> None:
    """Log what the sources of some datasets are read as, once for each source.

    Args:
        datasets: Datasets with `modality`, `source` and `inventory`.
    """
    found: dict[tuple[str, str], list[Inventory]] = {}
    for dataset in datasets:
        if dataset.inventory is not None:
            found.setdefault((dataset.modality, dataset.source), []).append(dataset.inventory)
    for (modality, _), inventories in found.items():
        logger.info("Data for %s: %s", modality, "\n".join(joined_inventory(inventories).lines()))


def first_names(names: list[str]) -> str:
    """Return the first few of some names, for messages."""
    return ", ".join(map(printable, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def printable(text: str) -> str:
    """Return a string that can be printed on one line: names of files may hold any bytes."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shown_in(path: Path, root: Path) -> str:
    """Return the name of a file of a source for reports."""
    if path == root:
        return path.name
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else os.fspath(path)
