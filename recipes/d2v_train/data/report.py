"""What was met in the data while a batch was prepared, and how it reaches the process that trains.

Batches are prepared in worker processes, whose memory is lost with them. So whatever a data set meets goes into the
`DataReport` that its reader hands in, and travels with the batch: a run records exactly what it was trained on, in the
same order for any number of workers and wherever it was interrupted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from d2v_train.support.atomic import write_json


class NoUsableSample(ValueError):
    """Neither a sample nor any of those that could stand in for it can be used; there is no point in going on."""


class BadRecord(NamedTuple):
    """A sample that cannot be used, and why."""

    modality: str
    source: str
    split: str
    row: int
    """Place in the split of the source, from 0."""
    name: str
    """File or row, for people."""
    reason: str
    """One of `decoding.FATAL`."""
    detail: str
    """What the library that read it said."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What tells the sample from all others of a run."""
        return self[:4]


@dataclass
class DataReport:
    """What was met while something was prepared.

    Attributes:
        draws: samples that were asked for, by modality; those that only stood in for a bad one do not count, as bad
            samples often lie side by side.
        bad_draws: those of them that were bad.
        bad: bad samples, once each, in the order in which they were met.
        notes: samples that were used all the same, as (modality, source, split, row, note).
    """

    draws: dict[str, int] = field(default_factory=dict)
    bad_draws: dict[str, int] = field(default_factory=dict)
    bad: dict[tuple[str, str, str, int], BadRecord] = field(default_factory=dict)
    notes: list[tuple[str, str, str, int, str]] = field(default_factory=list)

    def count(self, modality: str, drawn: bool = True) -> None:
        """Record that a sample is read, which was asked for or stands in for another one."""
        if drawn:
            self.draws[modality] = self.draws.get(modality, 0) + 1

    def reject(self, record: BadRecord, drawn: bool = True) -> None:
        """Record a bad sample, which was asked for or stands in for another one."""
        if drawn:
            self.bad_draws[record.modality] = self.bad_draws.get(record.modality, 0) + 1
        self.bad.setdefault(record.key, record)


def keep_report(report: DataReport, path: Path) -> None:
    """Keeps what was met while a data set was read as a whole, for those who will read what was made of it."""
    bad = [record[3:] for record in report.bad.values()]
    write_json(path, {"draws": sum(report.draws.values()), "bad": bad})


def repeat_report(path: Path, dataset: Any, report: DataReport | None) -> None:
    """Report again what `keep_report` kept of a data set."""
    if report is None or not path.is_file():
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    report.draws[dataset.modality] = report.draws.get(dataset.modality, 0) + kept["draws"]
    for fields in kept["bad"]:
        report.reject(BadRecord(dataset.modality, dataset.source, dataset.split, *fields))
