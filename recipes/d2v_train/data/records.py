"""Records of one modality from any source; bad samples are replaced and counted."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from d2v_train.data.bad_samples import BadSample, BadSamples
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.report import BadRecord, DataReport, NoUsableSample
from d2v_train.data.sources import open_table
from d2v_train.data.substitutes import candidates
from d2v_train.data.tables import AS_FOUND, SourceSettings, Table
from d2v_train.support.extras import MissingDependencyError


logger = logging.getLogger(__name__)

AUTO_CACHE_BYTES = 256 * 2**20
"""Decoded samples that `cache="auto"` keeps, in bytes per process."""
MOST_CHECKED = 8
"""Number of samples of a source that are compared with what the model takes."""
MAX_WARNINGS = 5
"""Number of bad samples of a dataset, or of a modality of a run, that are logged one by one."""


class Origin(NamedTuple):
    """Dataset and index of a record."""

    dataset: RawDataset
    index: int
    drawn: bool
    """Whether the record was requested, not a substitute for another one."""

    def reject(self, error: BadSample, report: DataReport | None = None) -> None:
        """Count the sample as bad because of an error in its transform."""
        self.dataset.reject(self.index, error, self.drawn, report)


class RawDataset(Dataset):
    """Decoded records of one split of one source.

    `dataset[i]` is a dict with "id" (int, always i), the raw input ("image": upright PIL image | "audio": float32
    (S,) mono at 16 kHz | "array": (sides ..., C) numbers | "text": str, and "text_pair": str for sentence pairs),
    "label" (int class, float score, row of `labels`, or None), "group" (str or None), "transcript" (str) if the source
    has a column of them, and "origin" (`Origin`).

    A bad record is replaced by the next good one, in a fixed order, under its own id: the sample after it, the one
    after that, and so on, wrapping around (in large datasets, distant ones after the next hundred). `bad` counts bad
    samples and notes; a `DataReport` passed to `read` receives them too.

    Args:
        modality: "text", "vision", "audio" or "arrays".
        table: Table of the undecoded values.
        indices: Rows of the table that belong to the dataset, in order; None takes all.
        settings: Settings of the source; `on_bad="raise"` is for evaluation, where a sample must not count twice.
        source, split: Names of both, for reports.

    Attributes:
        inventory: What the whole source is read as, or None.
        label_names: Names of the classes, or None.
        labels: (N,) int64 or float32, or None; of several classes each (N, L) float32, 0 or 1, NaN without labels.
        groups: N strings, or None.
        transcripts: N strings, or None.
        lengths: (N,) int64, samples at 16 kHz of recordings according to a column (-1 unknown), or None.
    """

    def __init__(
        self,
        modality: str,
        table: Table,
        indices: np.ndarray | None = None,
        settings: SourceSettings = AS_FOUND,
        source: str = "",
        split: str = "",
    ):
        self.modality = modality
        self.table = table
        self.rows = np.arange(len(table.values)) if indices is None else np.asarray(indices, dtype=np.int64)
        self.settings, self.on_bad = settings, settings.on_bad
        self.source, self.split = source, split
        self.label_names, self.inventory = table.label_names, table.inventory
        self.labels = None if table.labels is None else table.labels[self.rows]
        self.groups = None if table.groups is None else [table.groups[row] for row in self.rows]
        texts = table.transcripts
        self.transcripts = None if texts is None else [texts[row] for row in self.rows]
        self.lengths = None if table.lengths is None else table.lengths[self.rows]
        self.bad = BadSamples(len(self.rows), self.name_of)
        self._quiet = False
        self._broken: dict[int, BadSample] = {}
        self._cache: dict[int, Any] = {}
        self._cache_room = {"auto": AUTO_CACHE_BYTES, True: float("inf"), False: 0}[settings.cache]

    def __len__(self) -> int:
        """Return the number of records, bad ones included."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def read(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return record `index`; if it is bad and `on_bad` is "substitute", another one under its id.

        Args:
            index: Index of the sample.
            report: Receives bad samples and notes; None logs bad samples instead.
            drawn: Whether the sample was requested, not a substitute for another one.

        Raises:
            IndexError: If there is no such sample.
            BadSample: If it is bad and `on_bad` is "raise".
            NoUsableSample: If no substitute can be used either.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no sample {index} in a dataset of {len(self)}.")
        index = int(index) % len(self)
        if self.on_bad == "raise":
            return self.load(index, report, drawn)
        tried = 0
        for candidate in candidates(index, len(self)):
            try:
                return self.load(candidate, report, drawn and not tried) | {"id": index}
            except BadSample:
                tried += 1
        which = f"the {tried}" if tried == len(self) else f"{tried} of the {len(self)}"
        raise NoUsableSample(f"None of {which} samples can be used. {self.bad.report()}")

    def load(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return record `index` itself, without substitute; arguments as in `read`.

        Raises:
            BadSample: If it is bad; it is then counted in `bad`.
        """
        if report is not None:
            report.count(self.modality, drawn)
        try:
            value = self._cache[index] if index in self._cache else self._decode(index, report)
        except BadSample as error:
            self.reject(index, error, drawn, report)
            raise
        record, key = {"id": index, "origin": Origin(self, index, drawn)}, RECORD_KINDS[self.modality].key
        if isinstance(value, tuple):
            record[key], record[f"{key}_pair"] = value
        else:
            record[key] = value
        label = None if self.labels is None else self.labels[index]
        record["label"] = label.item() if isinstance(label, np.generic) else label
        record["group"] = None if self.groups is None else self.groups[index]
        if self.transcripts is not None:
            record["transcript"] = self.transcripts[index]
        return record

    def joint(self, index: int) -> str | None:
        """Return the text between a sample and the one before, if both are parts of one document; else None."""
        row = int(self.rows[index])
        follows = index > 0 and self.rows[index - 1] == row - 1
        return self.table.values.joint(row) if follows else None

    def without_bad(self) -> RawDataset:
        """Decode every sample once and return the dataset of the good ones; `bad` counts the others.

        Raises:
            NoUsableSample: If none is good.
        """
        good = []
        for index in range(len(self)):
            try:
                self.load(index)
                good.append(index)
            except BadSample:
                pass
        if not good:
            raise NoUsableSample(f"None of the {len(self)} samples can be used. {self.bad.report()}")
        return self.select(good)

    def select(self, indices: Sequence[int]) -> RawDataset:
        """Return the dataset of some samples, in the given order, with new ids."""
        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        settings = dataclasses.replace(self.settings, on_bad=self.on_bad)
        chosen = RawDataset(self.modality, self.table, rows, settings, self.source, self.split)
        chosen.bad.before = self.bad.before
        return chosen

    def subset(self, max_samples: int | None, seed: int = 0) -> RawDataset:
        """Return the dataset of `max_samples` random samples in their order, or itself if it has no more."""
        if max_samples is None or max_samples >= len(self):
            return self
        return self.select(draw_rows(np.arange(len(self)), max_samples, seed))

    def fingerprint(self) -> dict[str, int | str]:
        """Return the number of records and a hash of their rows and names, without reading files."""
        digest = hashlib.blake2b(self.rows.astype("<i8").tobytes(), digest_size=16)
        names = self.table.values.names
        if names is not None:
            for row in self.rows:
                digest.update(names[row].encode("utf-8", "surrogateescape") + b"\n")
        return {"records": len(self), "names": digest.hexdigest()}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without decoded samples, for spawned worker processes."""
        return self.__dict__ | {"_cache": {}}

    def name_of(self, index: int) -> str:
        """Return a human-readable name of a sample: its file, or its row in the source."""
        row = int(self.rows[index])
        if self.table.values.names is not None:
            return self.table.values.names[row]
        try:
            value = self.table.values[row]
        except Exception:  # the name of an unreadable sample is requested
            value = None
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(value, str) and not RECORD_KINDS[self.modality].is_text:
            path = value
        return f"row {row} ({path})" if path else f"row {row}"

    def reject(self, index: int, error: BadSample, drawn: bool = True, report: DataReport | None = None) -> None:
        """Count a sample as bad, and report it, or log it unless there were many.

        Args:
            index: Index of the sample.
            error: Why it is bad.
            drawn: Whether it was requested, not a substitute for another one.
            report: Receives the sample; None logs it instead.
        """
        known = self.bad.is_bad(index)
        self.bad.mark(index, error.reason)
        if report is not None:
            # Also if it is known: another process may have found the sample first. File names need not be text.
            name = self.name_of(index).encode("utf-8", "backslashreplace").decode("utf-8")
            report.reject(BadRecord(*self._place(index), name, error.reason, error.detail), drawn)
        elif not known and not self._quiet:
            total = self.bad.found
            self._quiet = total >= MAX_WARNINGS
            if total <= MAX_WARNINGS:
                logger.warning("Bad %s sample, %s: %s", self.modality, self.name_of(index), error)
            if total == MAX_WARNINGS:
                logger.warning("Further bad %s samples are counted without a message.", self.modality)

    def forbid(self, index: int, error: BadSample) -> None:
        """Count a sample as bad that can be decoded but not be used; from now on, reading it raises the error."""
        self._broken[index] = error
        self._cache.pop(index, None)
        self.reject(index, error)

    def _place(self, index: int) -> tuple[str, str, str, int]:
        """Return what identifies a sample among those of all datasets."""
        return self.modality, self.source, self.split, int(self.rows[index])

    def _decode(self, index: int, report: DataReport | None) -> Any:
        """Return the decoded value. A broken one is not tried again, except a missing file, which may reappear."""
        if index in self._broken:
            raise self._broken[index].with_traceback(None)
        try:
            raw = self.table.values[int(self.rows[index])]
            value, notes = RECORD_KINDS[self.modality].decode(raw, self.settings)
        except MissingDependencyError:
            raise
        except BadSample as error:
            if error.reason != "missing":
                self._broken[index] = error
            raise
        except Exception as error:  # each library raises its own exceptions
            broken = BadSample("unreadable", f"{type(error).__name__}: {error}")
            raise broken from error
        for note in notes:
            self.bad.mark(index, note)
            if report is not None:
                report.notes.append((*self._place(index), note))
        size = _bytes_of(value)
        if size <= self._cache_room:
            self._cache_room -= size
            self._cache[index] = value
        return value


def draw_rows(rows: np.ndarray, max_samples: int | None, seed: int | np.random.Generator = 0) -> np.ndarray:
    """Return `max_samples` of the given rows, drawn at random and ascending, or all if there are no more.

    Args:
        rows: (N,) ascending.
        max_samples: Number of rows to draw; None for all.
        seed: Seed of the draw, or a generator.

    Raises:
        ValueError: If `max_samples` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"Option max_samples is {max_samples}; it must be at least 1.")
    if max_samples is None or max_samples >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=max_samples, replace=False))


def _bytes_of(value: Any) -> int:
    """Return the approximate size of a decoded value."""
    if isinstance(value, np.ndarray):
        return 0 if isinstance(value, np.memmap) else value.nbytes
    if isinstance(value, tuple | str):
        return sum(map(len, value)) if isinstance(value, tuple) else len(value)
    return value.width * value.height * len(value.getbands())


def open_dataset(
    modality: str,
    source: str | None = None,
    split: str = "train",
    settings: SourceSettings = AS_FOUND,
    *,
    stream_block: int | None = None,
    **changes: Any,
) -> RawDataset:
    """Open one split of a source of images, speech or text.

    Args:
        modality: A key of `RECORD_KINDS`.
        source: One of
            - None or "builtin": the built-in data (`builtin.py`);
            - a folder or file of parquet, with images and audio as encoded bytes or paths;
            - a folder, `.zip` or URL of images or recordings, with folders of splits and classes, or in one of
              `FILE_LAYOUTS`; or a file that lists such files;
            - a folder or file of text: `.txt` with a blank line between documents (or see `documents`), `.jsonl`;
            - the name of a dataset on the Hugging Face Hub, "user/name" or "user/name:config".
        split: Name of a split, or several joined as in "train+test". "validation" and "test" stand for one another if
            only one exists.
        settings: How its samples are found and read.
        stream_block: Number of samples in a block. Parquet and text files are then read when their rows are needed,
            with the rows of one block kept in memory; labels and transcripts are not read. None converts parquet to a
            memory-mapped table first, and reads text into memory.
        changes: Fields of `settings` to replace.

    Raises:
        ValueError: If the modality, split, a column or a group does not exist, or no samples are left.
        FileNotFoundError: If a path does not exist.
    """
    if modality not in RECORD_KINDS:
        raise ValueError(f"The modality {modality!r} is unknown; it must be one of {', '.join(sorted(RECORD_KINDS))}.")
    settings = dataclasses.replace(settings, **changes)
    table = open_table(modality, source, split, settings, streaming=stream_block is not None)
    where = source or "the built-in data"
    rows = np.arange(len(table.values))
    if settings.only_groups is not None or settings.exclude_groups is not None:
        rows = _filter_groups(table, rows, settings.only_groups, settings.exclude_groups, f"{where} ({split})")
    rows = draw_rows(rows, settings.max_samples)
    if len(rows) == 0:
        raise ValueError(f"No {modality} samples are left in {where}, split {split!r}.")
    if stream_block is not None:
        last = np.minimum(np.arange(0, len(rows), stream_block) + stream_block, len(rows)) - 1
        table.values.keep(int((rows[last] - rows[::stream_block]).max()) + 1)
        settings = dataclasses.replace(settings, cache=settings.cache is True)
    check = RECORD_KINDS[modality].check
    if check is not None and not table.values.is_remote:
        check(_first_values(table, rows), settings, where)
    return RawDataset(modality, table, rows, settings, source or "builtin", split)


def _first_values(table: Table, rows: np.ndarray) -> Iterator[Any]:
    """Yield the undecoded values of the first rows that can be read."""
    for row in rows[:MOST_CHECKED]:
        try:
            yield table.values[int(row)]
        except Exception:  # the decoder will raise the error again
            continue


def _filter_groups(
    table: Table, rows: np.ndarray, only: Sequence[str] | None, exclude: Sequence[str] | None, where: str
) -> np.ndarray:
    """Return the rows whose group is in `only` (None: any) and not in `exclude`."""
    if table.groups is None:
        chosen = " and ".join(name for name, groups in (("only_groups", only), ("exclude_groups", exclude)) if groups)
        raise ValueError(
            f"Groups cannot be selected: {where} has no group column. Name one with `group_column`, or set "
            f"{chosen} to null to use all samples."
        )
    groups = np.array(table.groups)
    existing = set(table.groups)
    keep = np.ones(len(groups), dtype=bool)
    for wanted, kept in ((only, True), (exclude, False)):
        if wanted is None:
            continue
        wanted = [str(group) for group in ([wanted] if isinstance(wanted, str | int) else wanted)]
        unknown = [group for group in wanted if group not in existing]
        if unknown:
            shown = ", ".join(sorted(existing)[:20]) + (", ..." if len(existing) > 20 else "")
            raise ValueError(f"There is no group {unknown[0]!r} in {where}. It has: {shown}.")
        keep &= np.isin(groups, wanted) == kept
    return rows[keep[rows]]
