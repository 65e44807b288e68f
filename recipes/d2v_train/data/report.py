"""What was met in the data while a batch was prepared, and how it reaches the process that trains.

Batches are prepared in worker processes, whose memory is lost with them. So whatever a data set meets goes into the
`DataReport` that its caller collects, and travels with the batch: a run records exactly what it was trained on, in the
same order for any number of workers and wherever it was interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
        last: data set and index of the record that was read last, and whether it was asked for.
        retrying: whether everything at present stands in for a bad sample.
    """

    draws: dict[str, int] = field(default_factory=dict)
    bad_draws: dict[str, int] = field(default_factory=dict)
    bad: dict[tuple[str, str, str, int], BadRecord] = field(default_factory=dict)
    notes: list[tuple[str, str, str, int, str]] = field(default_factory=list)
    last: tuple[Any, int, bool] | None = None
    retrying: bool = False

    def read(self, dataset: Any, index: int, drawn: bool = True) -> None:
        """Records that a data set reads one of its samples, which was asked for or not."""
        self._count(self.draws, dataset.modality, drawn)
        self.last = dataset, index, drawn

    def reject(self, record: BadRecord, drawn: bool = True) -> None:
        """Records a bad sample, which was asked for or not."""
        self._count(self.bad_draws, record.modality, drawn)
        self.bad.setdefault(record.key, record)

    def _count(self, counts: dict[str, int], modality: str, drawn: bool) -> None:
        if drawn and not self.retrying:
            counts[modality] = counts.get(modality, 0) + 1

    def packed(self) -> DataReport:
        """The same without what only its process understands."""
        return DataReport(self.draws, self.bad_draws, self.bad, self.notes)


_collected: ContextVar[DataReport | None] = ContextVar("data_report", default=None)


def collecting() -> DataReport | None:
    """The report that is being filled at present; None when nobody collects them."""
    return _collected.get()


@contextmanager
def collect_data_report() -> Iterator[DataReport]:
    """Collects what all data sets of this process meet inside the `with` block."""
    report = DataReport()
    token = _collected.set(report)
    try:
        yield report
    finally:
        _collected.reset(token)


def keep_report(report: DataReport, path: Path) -> None:
    """Keeps what was met while a data set was read as a whole, for those who will read what was made of it."""
    bad = [record[3:] for record in report.bad.values()]
    write_json(path, {"draws": sum(report.draws.values()), "bad": bad})


def repeat_report(path: Path, dataset: Any) -> None:
    """Reports again what `keep_report` kept of a data set."""
    report = collecting()
    if report is None or not path.is_file():
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    report.draws[dataset.modality] = report.draws.get(dataset.modality, 0) + kept["draws"]
    for fields in kept["bad"]:
        report.reject(BadRecord(dataset.modality, dataset.source, dataset.split, *fields))
