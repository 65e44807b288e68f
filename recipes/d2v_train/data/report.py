"""Reports of bad samples from worker processes to the process that trains.

Batches are prepared in worker processes, whose memory is lost with them. Bad samples and notes therefore go into a
`DataReport`, which is sent with the batch: a run records exactly what it was trained on, in the same order for any
number of workers and wherever it was interrupted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from d2v_train.support.atomic import write_json


class NoUsableSample(ValueError):
    """Neither a sample nor any of its substitutes can be used."""


class BadRecord(NamedTuple):
    """A sample that cannot be used, and why."""

    modality: str
    source: str
    split: str
    row: int
    """Row in the split of the source, from 0."""
    name: str
    """Human-readable name: file or row."""
    reason: str
    """One of `bad_samples.FATAL`."""
    detail: str
    """Message of the library that read it."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What identifies the sample among all others of a run."""
        return self[:4]


@dataclass
class DataReport:
    """Bad samples and notes of a batch, or of a dataset that is read as a whole.

    Attributes:
        draws: Number of samples requested, by modality; substitutes do not count, as bad samples are often adjacent.
        bad_draws: Number of those that were bad.
        bad: Bad samples, once each, in the order in which they were found.
        notes: Notes on samples that were used, as (modality, source, split, row, note).
    """

    draws: dict[str, int] = field(default_factory=dict)
    bad_draws: dict[str, int] = field(default_factory=dict)
    bad: dict[tuple[str, str, str, int], BadRecord] = field(default_factory=dict)
    notes: list[tuple[str, str, str, int, str]] = field(default_factory=list)

    def count(self, modality: str, drawn: bool = True) -> None:
        """Count a sample that is read, unless it is a substitute."""
        if drawn:
            self.draws[modality] = self.draws.get(modality, 0) + 1

    def reject(self, record: BadRecord, drawn: bool = True) -> None:
        """Record a bad sample; a substitute does not count as drawn."""
        if drawn:
            self.bad_draws[record.modality] = self.bad_draws.get(record.modality, 0) + 1
        self.bad.setdefault(record.key, record)


def keep_report(report: DataReport, path: Path) -> None:
    """Save the report of a dataset that was read as a whole, for later runs that use its cached result."""
    bad = [record[3:] for record in report.bad.values()]
    write_json(path, {"draws": sum(report.draws.values()), "bad": bad})


def repeat_report(path: Path, dataset: Any, report: DataReport | None) -> None:
    """Add the report that `keep_report` saved of a dataset."""
    if report is None or not path.is_file():
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    report.draws[dataset.modality] = report.draws.get(dataset.modality, 0) + kept["draws"]
    for fields in kept["bad"]:
        report.reject(BadRecord(dataset.modality, dataset.source, dataset.split, *fields))
