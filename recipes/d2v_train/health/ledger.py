"""The bad samples of a run: the file `bad_samples.jsonl`, and the limit of their share.

The reports of a step's batches are written when the step is logged or saved, and before its checkpoint exists. A
killed run repeats the steps after its checkpoint with the same samples, so the file is the same as without the kill.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.records import MAX_WARNINGS
from d2v_train.data.report import BadRecord, DataReport, NoUsableSample
from d2v_train.health.guard import TrainingStopped
from d2v_train.support.atomic import write_text
from d2v_train.support.jsonl import read_log
from d2v_train.support.processes import ONE_PROCESS, Processes
from d2v_train.support.storage import writing


logger = logging.getLogger(__name__)

TOLERATED = 10
"""Number of bad samples (and draws of them) per modality that never stops a run: their share is not yet reliable."""
MAX_DETAIL = 300
"""Characters of a library's error message that are stored."""


class BadSampleLedger:
    """Bad samples of a run, each once over all epochs, processes and resumes.

    Every process holds the same counts; the main one writes the file.

    Args:
        path: Path of `bad_samples.jsonl`.
        max_fraction: Share of the samples of a modality that may be bad; 1 = all.
        processes: Processes of the run.

    Attributes:
        draws: Samples drawn by modality, over all processes and all parts of the run.
        bad_draws: Draws of bad samples by modality.
        counts: Bad samples by modality and reason.
    """

    def __init__(self, path: Path, max_fraction: float, processes: Processes = ONE_PROCESS):
        self.path, self.max_fraction, self.processes = Path(path), max_fraction, processes
        self.draws: Counter[str] = Counter()
        self.bad_draws: Counter[str] = Counter()
        self.counts: dict[str, Counter[str]] = {}
        self._sizes: dict[str, int | None] = {}
        self._known: set[tuple[str, str, str, int]] = set()
        self._seen: dict[tuple[str, str, str, str], np.ndarray] = {}
        self._new: list[tuple[int, int, BadRecord]] = []
        self._new_draws: Counter[str] = Counter()
        self._new_bad_draws: Counter[str] = Counter()
        self._on_disk = True

    def register_data(self, sizes: Mapping[str, int | None], report: DataReport) -> None:
        """Register the number of records by modality (None = unknown), and the report of the data setup."""
        self._sizes = dict(sizes)
        self._take(0, report)

    def open(self, step: int) -> None:
        """Continue the file of a run at a step; later entries are dropped, as they will be met again.

        Every process must call it.

        Raises:
            TrainingStopped: There are already too many bad samples.
        """
        listed = read_log(self.path) if self.path.exists() else []
        kept = [line for line in listed if line["step"] <= step and line.keys() >= set(BadRecord._fields)]
        for line in kept:
            self._count(BadRecord(**{name: line[name] for name in BadRecord._fields}))
        if self.processes.main and self.path.exists():
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept), "The list of bad samples")
        self.flush()
        self.check()

    def add(self, step: int, reports: Iterable[DataReport | None]) -> None:
        """Add the reports of the batches of a step (counted from 1)."""
        for report in reports:
            if report is not None:
                self._take(step, report)
        if self.processes.count == 1:
            self.flush()

    def flush(self, to_disk: bool = False) -> None:
        """Write new entries of all processes. Every process must call it.

        Args:
            to_disk: Wait until the disk holds them, so that a checkpoint survives a power failure.
        """
        parts = self.processes.gather((self._new, self._new_draws, self._new_bad_draws))
        self._new, self._new_draws, self._new_bad_draws = [], Counter(), Counter()
        fresh = []
        for _, draws, bad_draws in parts:
            self.draws.update(draws)
            self.bad_draws.update(bad_draws)
        # In an order that does not depend on the processes: the first encounter of a sample precedes others.
        met = sorted(
            (entry for new, *_ in parts for entry in new), key=lambda entry: (entry[0], entry[2].key, entry[1])
        )
        for step, rank, record in met:
            if record.key not in self._known:
                self._count(record)
                fresh.append({"step": step} | record._asdict() | {"process": rank})
                self._warn(record)
        self._on_disk &= not fresh
        if self.processes.main and (fresh or (to_disk and not self._on_disk)):
            with writing("The list of bad samples", self.path.parent), open(self.path, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps(line) + "\n" for line in fresh))
                if to_disk:
                    file.flush()
                    os.fsync(file.fileno())
        self._on_disk |= to_disk

    def check(self) -> None:
        """Check the share of bad samples.

        Raises:
            TrainingStopped: The share is above `max_fraction` in a modality.
        """
        for modality, reasons in self.counts.items():
            share = self._share_above_limit(modality, reasons.total())
            if share:
                raise TrainingStopped(
                    f"{share} cannot be used, more than health.max_bad_fraction={self.max_fraction:g} allows. So "
                    f"far: {_listed(reasons)}. {self.path} lists them with the reasons. Repair the files, remove "
                    "that list and run the same command again; or raise health.max_bad_fraction (1 = no limit)."
                )

    def _share_above_limit(self, modality: str, bad: int) -> str | None:
        """Return a description of the share of bad samples if it is above the limit, else None."""
        size, draws, hits = self._sizes.get(modality), self.draws[modality], self.bad_draws[modality]
        limit, tolerated = self.max_fraction, TOLERATED if self.max_fraction else 0
        if limit == 1 or bad <= tolerated:
            return None
        if size is not None and bad > limit * size:
            return f"{bad:,} of the {size:,} {modality} samples"
        # Each epoch draws every sample once, so the share of draws estimates that of samples before all were drawn.
        if hits > max(tolerated, limit * draws):
            return f"{hits:,} of the {draws:,} {modality} samples that were drawn"
        return None

    def state_dict(self) -> dict[str, list[int]]:
        """Return draws and bad draws by modality, as JSON values."""
        return {name: [count, self.bad_draws[name]] for name, count in self.draws.items()}

    def load_state_dict(self, state: Mapping[str, list[int]]) -> None:
        """Continue with the counts of a checkpoint."""
        self.draws = Counter({name: draws for name, (draws, _) in state.items()})
        self.bad_draws = Counter({name: bad_draws for name, (_, bad_draws) in state.items()})

    def record(self) -> dict[str, int]:
        """Return the number of bad samples by modality, for a log record."""
        return {f"{name}/bad_samples": self.counts.get(name, Counter()).total() for name in self._sizes}

    def summary(self) -> dict[str, Any]:
        """Return and log counts by modality and reason. Every process must call it.

        Returns:
            "bad_samples" of the whole run, and "unusual_samples" that were used since the program was started.
        """
        unusual: dict[str, Counter[str]] = {}
        for (modality, *_, note), seen in self._merged().items():
            unusual.setdefault(modality, Counter())[note] += int(seen.sum())
        if self.processes.main:
            for name, reasons in self.counts.items():
                logger.warning(
                    "%s %s samples cannot be used and were replaced or left out: %s. See %s.",
                    f"{reasons.total():,}",
                    name,
                    _listed(reasons),
                    self.path,
                )
            for name, notes in unusual.items():
                logger.info("Unusual %s samples that were used: %s.", name, _listed(notes))
        return {
            "bad_samples": {name: dict(reasons) for name, reasons in self.counts.items()},
            "unusual_samples": {name: dict(notes) for name, notes in unusual.items()},
        }

    def _take(self, step: int, report: DataReport) -> None:
        self._new_draws.update(report.draws)
        self._new_bad_draws.update(report.bad_draws)
        for record in report.bad.values():
            detail = " ".join(record.detail.split())[:MAX_DETAIL]
            self._new.append((step, self.processes.rank, record._replace(detail=detail)))
        for *place, row, note in report.notes:
            key = (*place, note)
            seen = self._seen.get(key, np.zeros(0, dtype=bool))
            if row >= len(seen):
                seen = np.concatenate([seen, np.zeros(row + 1, dtype=bool)])
            seen[row] = True
            self._seen[key] = seen

    def _merged(self) -> dict[tuple[str, str, str, str], np.ndarray]:
        """Return the samples with notes of all processes."""
        merged: dict[tuple[str, str, str, str], np.ndarray] = {}
        for part in self.processes.gather(self._seen):
            for key, seen in part.items():
                both = np.zeros(max(len(seen), len(merged.get(key, ()))), dtype=bool)
                for rows in (seen, merged.get(key, both[:0])):
                    both[: len(rows)] |= rows
                merged[key] = both
        return merged

    def _count(self, record: BadRecord) -> None:
        if record.key not in self._known:
            self._known.add(record.key)
            self.counts.setdefault(record.modality, Counter())[record.reason] += 1

    def _warn(self, record: BadRecord) -> None:
        """Log the first bad samples of a modality by name."""
        count = self.counts[record.modality].total()
        if not self.processes.main or count > MAX_WARNINGS:
            return
        logger.warning("Bad %s sample, %s: %s: %s", record.modality, record.name, record.reason, record.detail)
        if count == MAX_WARNINGS:
            logger.warning("Further bad %s samples are only listed in %s.", record.modality, self.path)


@contextmanager
def data_explained() -> Iterator[None]:
    """Replace the errors for data without a usable sample and for a worker that was killed by ones that explain them.

    Raises:
        TrainingStopped: Instead of `NoUsableSample` and the error of the data loader.
    """
    try:
        yield
    except NoUsableSample as error:
        sentence = " ".join(str(error).split())
        raise TrainingStopped(f"{sentence.rstrip('.')}. Check that the data still exists and can be read.") from None
    except RuntimeError as error:
        # The data loader raises no error of its own kind.
        if "DataLoader worker" not in str(error):
            raise
        reason = " ".join(str(error).split()).rstrip(".")
        raise TrainingStopped(
            f"A worker process that reads data has ended ({reason}), most often because memory ran out. Lower "
            "data.num_workers or data.prefetch; the same command resumes from the newest checkpoint."
        ) from None


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
