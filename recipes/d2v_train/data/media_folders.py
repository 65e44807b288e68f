"""Sources of files with one image or recording each: folders, zip files, URLs, and lists of files.

Which files are samples is decided once, by `read_corpus`; the rows and the account of all files follow from it. Files
that describe others are those of `layouts.py`; what folders mean is said in `folder_splits.py`.

    [split/] [class/ ...] name.suffix     split: train, validation, test, ...; the class is the first folder
    [split/] metadata.csv                 column `file_name`, relative to the metadata file, and further columns
    ...                                   the other layouts

Where a file describes samples, those are the samples of its folder: others in it are left out, and a listed file that
does not exist is counted as missing. Hidden files and folders are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from d2v_train.data.accounts import PLURALS, account, is_of_another_kind, no_samples, suffix_of, suffixes_of
from d2v_train.data.folder_splits import FolderLevels, classes_of, common_place, splits_meant
from d2v_train.data.inventory import Inventory, first_names
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.label_columns import encode_labels
from d2v_train.data.layouts import FILE_LAYOUTS, Corpus, Description, FileLayout, describe
from d2v_train.data.listing import Listing
from d2v_train.data.rows import ListedRows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    ColumnNotFoundError,
    NoSamplesError,
    SourceSettings,
    Table,
    is_missing,
    read_lengths,
    transcript_column,
    usual_column,
)


CLASS_COLUMN = "label"
"""Column of the class of a file according to its folder."""


@dataclass
class MediaSource:
    """What the files of a source are read as.

    Attributes:
        splits: Samples by split, each a file and its columns.
        folder_classes: Classes that are names of folders.
        is_untyped: Whether the columns are text, also where it is numbers.
        inventory: The account of its files.
    """

    splits: dict[str, list[tuple[str, Mapping[str, Any]]]] = field(default_factory=dict)
    is_untyped: bool = True
    folder_classes: list[str] = field(default_factory=list)
    inventory: Inventory | None = None


def open_media(
    modality: str,
    listing: Listing,
    split: str,
    settings: SourceSettings,
    source: str,
    layouts: tuple[FileLayout, ...] = FILE_LAYOUTS,
) -> Table:
    """Open one split of a source of images or recordings.

    Args:
        modality: "vision" or "audio".
        listing: The files of the source.
        split: The split.
        settings: What to read.
        source: The source as it was given.
        layouts: Layouts of the files that describe others.

    Raises:
        ValueError: If there are no such files, or no such split or column, or the metadata is malformed.
    """
    where = listing.where
    wanted = [settings.column] if isinstance(settings.column, str) else list(settings.column or ())
    unknown = [name for name in wanted if name not in (*RECORD_KINDS[modality].columns, "file_name")]
    if unknown:
        raise ColumnNotFoundError(
            f"There is no column {unknown[0]!r} in {where!r}: the inputs are the files of the folder. Leave the "
            "column out."
        )
    found = read_corpus(modality, listing, settings, source, layouts)
    rows = [row for name in splits_meant(split, found.splits, where) for row in found.splits[name]]
    different = {id(columns): columns for _, columns in rows}.values()
    existing = list(dict.fromkeys(key for columns in different for key in columns))
    group = usual_column(existing, settings.group_column, GROUP_COLUMNS, "group", where)
    text = transcript_column(existing, settings.text_column, where)
    length = usual_column(existing, settings.length_column, (), "length", where)
    labels = label_names = groups = transcripts = lengths = None
    if settings.read_labels:
        label = usual_column(existing, settings.label_column, LABEL_COLUMNS, "label", where)
        if label is not None:
            labels, label_names = _labels(found, rows, label, where)
    if group is not None:
        groups = ["" if is_missing(columns.get(group)) else str(columns[group]) for _, columns in rows]
    if text is not None:
        transcripts = ["" if is_missing(columns.get(text)) else str(columns[text]) for _, columns in rows]
    if length is not None:
        cells = [columns.get(length) for _, columns in rows]
        lengths = read_lengths([None if is_missing(cell) else cell for cell in cells], f"column {length!r} of {where}")
    values = ListedRows(listing, [name for name, _ in rows])
    return Table(values, labels, groups, label_names, transcripts, lengths, found.inventory)


def read_corpus(
    modality: str,
    listing: Listing,
    settings: SourceSettings,
    source: str,
    layouts: tuple[FileLayout, ...] = FILE_LAYOUTS,
) -> MediaSource:
    """Decide which files of a source are samples of which split, and why the others are not.

    Raises:
        ValueError: If there are no samples, or a file that describes them is malformed or contradicts another one.
    """
    suffixes = suffixes_of(modality)
    corpus = Corpus(listing, suffixes, settings)
    sample_suffixes = frozenset(suffixes)
    described = []
    for name in listing.names:
        if suffix_of(name) not in sample_suffixes:
            layout, description = describe(corpus, name, modality, layouts)
            if layout is not None:
                described.append((name, layout, description))
    if listing.is_list:
        listing.add(sample.file for *_, description in described for sample in description.samples)
    media = [name for name in listing.names if suffix_of(name) in sample_suffixes]
    if not media and not described:
        raise no_samples(modality, listing)
    collector = _Collector(modality, corpus, FolderLevels.of(media or [name for name, *_ in described]))
    for name, layout, description in collector.nearest(described):
        collector.add_described(name, layout, description)
    collector.add_by_folder([name for name in media if name not in collector.used])
    found = collector.finish(source)
    if not found.splits:
        lines = "\n".join(found.inventory.lines())
        problem = f"There are no samples of modality {modality} in {listing.where!r}.\n{lines}"
        raise ValueError(problem) if media else NoSamplesError(problem)
    return found


class _Collector:
    """The samples of a source, collected from the files that describe them, and from folders.

    Args:
        modality: What is read.
        corpus: The files.
        levels: What the folders mean.
    """

    def __init__(self, modality: str, corpus: Corpus, levels: FolderLevels):
        self.modality, self.corpus, self.levels = modality, corpus, levels
        self.listing = corpus.listing
        self.result = MediaSource()
        self.layouts: dict[str, None] = {}
        self.used: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.covers: dict[str, list[str]] = {}
        self.missing: list[str] = []
        self.notes: list[str] = []
        self.labelled = False
        self.outside = self.repeated = self.twice = 0

    def nearest(
        self, described: list[tuple[str, FileLayout, Description]]
    ) -> list[tuple[str, FileLayout, Description]]:
        """Return the descriptions with the samples of this modality, each file described by one metadata file only.

        That is the nearest one; of several in one folder the first, if they agree.

        Raises:
            ValueError: If they do not.
        """
        kept = []
        for name, layout, description in described:
            samples = [sample for sample in description.samples if not self._is_of_another_kind(sample.file)]
            if samples or not description.samples:
                kept.append((name, layout, replace(description, samples=samples)))
            else:
                self.reasons[name] = "it describes other files"
        metadata = [(name, description) for name, layout, description in kept if layout.is_metadata]
        if len(metadata) < 2:
            return kept
        owners: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for name, description in sorted(metadata, key=lambda entry: -entry[0].count("/")):
            mine = []
            for sample in description.samples:
                owner, columns = owners.get(sample.file, (name, {}))
                if owner == name:
                    mine.append(sample)
                    owners.setdefault(sample.file, (name, sample.columns))
                    continue
                self.twice += 1
                if owner.rpartition("/")[0] == name.rpartition("/")[0]:
                    _check_agreement(self.corpus, owner, name, sample, columns)
            description.samples = mine
        return kept

    def add_described(self, name: str, layout: FileLayout, description: Description) -> None:
        """Add the samples of a description."""
        self.layouts[layout.title] = None
        self.used.update((name, *description.beside))
        if description.by_folder:
            self._add_list([sample.file for sample in description.samples])
            return
        self.covers.setdefault(description.covers, []).append(name)
        place = common_place([sample.file for sample in description.samples if sample.file in self.listing.known])
        if not place.startswith(description.covers):  # such as ../images, seen from the folder of the metadata
            self.covers.setdefault(place, []).append(name)
        self.result.is_untyped &= description.is_untyped
        self.notes += description.notes
        self.labelled |= any(CLASS_COLUMN in sample.columns for sample in description.samples)
        own = self.levels.split_of(name) or "train"
        if self.listing.is_list and not layout.is_metadata:
            own = "train"
            description.samples = [sample._replace(split=own) for sample in description.samples]
        seen: set[str] = set()
        for sample in description.samples:
            exists = sample.file in self.listing.known
            if not exists:
                self._note_absent(sample.file)
            self.repeated += sample.file in seen
            seen.add(sample.file)
            split = sample.split or (exists and self.levels.split_of(sample.file)) or own
            self.result.splits.setdefault(split, []).append((sample.file, sample.columns))
        self.used |= seen

    def add_by_folder(self, files: list[str]) -> None:
        """Add files that no description covers, with their folders as classes."""
        plain, splits = [], []
        for name in files:
            covering = self._covering(name)
            split = self.levels.split_of(name)
            if covering is not None:
                self.reasons[name] = f"it is not listed in {first_names(covering)}"
            elif split is None:
                self.reasons[name] = f"it lies beside the folders of the splits ({', '.join(self.levels.splits)})"
            else:
                plain.append(name)
                splits.append(split)
        self._add_classes(plain, splits, classes_of(plain, self.levels))

    def _add_list(self, files: list[str]) -> None:
        """Add the files of a list as one split; folders at the level of splits are no classes."""
        absolute = {name: os.path.normpath(self.listing.value(name)) for name in files}
        existing = [path for name, path in absolute.items() if name in self.listing.known]
        labels = classes_of([absolute[name] for name in files], FolderLevels.of(existing), existing)
        self.missing += [name for name in files if name not in self.listing.known]
        self._add_classes(files, ["train"] * len(files), labels)

    def _add_classes(self, files: list[str], splits: list[str], labels: list[str | None]) -> None:
        classes: dict[str | None, Mapping[str, Any]] = {None: {}}
        for name, split, label in zip(files, splits, labels, strict=True):
            columns = classes.setdefault(label, {} if label is None else {CLASS_COLUMN: label})
            self.result.splits.setdefault(split, []).append((name, columns))
        self.used.update(files)
        self.result.folder_classes += [label for label in classes if label is not None]
        if len(classes) > 2:
            self.layouts[f"one folder per class ({len(classes) - 1} classes)"] = None
        elif files and not self.layouts:
            self.layouts["without classes"] = None

    def finish(self, source: str) -> MediaSource:
        """Return the samples, with the account of all files."""
        what = f"{PLURALS[self.modality]}, {', '.join(self.layouts)}"
        if self.levels.splits:
            what += ", one folder per split"
        samples = {name: len(rows) for name, rows in self.result.splits.items()}
        inventory = account(source, what, self.modality, self.listing, self.used, samples, self.reasons)
        facts = {
            f"listed files do not exist ({first_names(self.missing)})": len(self.missing),
            "listed files lie outside the source, or are hidden": self.outside,
            "rows list a file again that their file lists already; each row is a sample": self.repeated,
            "rows are left out, because another metadata file nearer to the file, or before it, lists it": self.twice,
        }
        inventory.notes += [*self.notes, *(f"{count} {fact}" for fact, count in facts.items() if count)]
        if self.labelled and self.result.folder_classes:
            inventory.notes.append("some classes are told by metadata, others by folders")
        if not self.levels.splits:
            alike = [label for label in self.result.folder_classes if label.lower() in SPLIT_NAMES]
            inventory.notes += [f"the folder {label} is a class, not a split, like those beside it" for label in alike]
        self.result.inventory = inventory
        return self.result

    def _is_of_another_kind(self, name: str) -> bool:
        """Return whether a listed file exists, and cannot be a sample of this modality."""
        return name in self.listing.known and is_of_another_kind(name, self.modality)

    def _note_absent(self, name: str) -> None:
        if self.corpus.exists(name):
            self.outside += 1
        else:
            self.missing.append(name)

    def _covering(self, name: str) -> list[str] | None:
        """Return the files that describe the folder of a file, or the nearest one above it."""
        if not self.covers:
            return None
        folder = name[: name.rfind("/") + 1]
        while folder not in self.covers and folder:
            folder = folder[: folder.rstrip("/").rfind("/") + 1]
        return self.covers.get(folder)


def _check_agreement(corpus: Corpus, owner: str, name: str, sample: Any, columns: Mapping[str, Any]) -> None:
    for key in columns.keys() & sample.columns.keys():
        if str(columns[key]) != str(sample.columns[key]):
            raise ValueError(
                f"{corpus.shown(owner)} and {corpus.shown(name)} both describe {sample.file}, with different values "
                f"of {key!r}. Remove one of the two."
            )


def _labels(
    found: MediaSource, rows: list[tuple[str, Mapping[str, Any]]], label: str, where: str
) -> tuple[np.ndarray | None, list[str] | None]:
    """Return labels and class names of some rows; the classes are those of all splits."""
    of_folders = label == CLASS_COLUMN and bool(found.folder_classes)
    universe = [columns.get(label) for part in found.splits.values() for _, columns in part]
    different = {cell for cell in universe if isinstance(cell, str) and not is_missing(cell)}
    # A single folder is a location, not a class.
    if all(map(is_missing, universe)) or (of_folders and len(different) < 2):
        return None, None
    labels = [columns.get(label) for _, columns in rows]
    return encode_labels(labels, None, universe, f"column {label!r} of {where}", found.is_untyped and not of_folders)
