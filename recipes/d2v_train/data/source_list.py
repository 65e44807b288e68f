"""Several sources of one modality: their entries in the options, and the dataset that joins them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from d2v_train.data.records import open_dataset
from d2v_train.data.report import DataReport
from d2v_train.data.tables import SourceSettings
from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_section
from d2v_train.options.run import Options


@dataclass(frozen=True, kw_only=True)
class SourceEntry(SourceSettings):
    """One source in the options."""

    source: str | None = None
    """Folder, file or name on the Hub, or "builtin"."""
    split: str = "train"
    """Its split."""
    ratio: float | None = None
    """How often it is drawn, see `Mixture`."""


class JoinedDataset(Dataset):
    """The sources of one modality, one after another; a record's id is its index among all of them.

    Args:
        parts: Dataset of each source.
        names: Names of the sources, for logs.
        ratios: How often each is drawn, see `Mixture`.
    """

    def __init__(self, parts: Sequence[Dataset], names: Sequence[str], ratios: Sequence[float | None]):
        self.parts, self.names, self.ratios = list(parts), list(names), list(ratios)

    def __len__(self) -> int:
        """Return the number of records of all sources."""
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def read(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return a record; arguments as in `RawDataset.read`."""
        place = int(index)
        for part in self.parts:
            if 0 <= place < len(part):
                return part.read(place, report, drawn) | {"id": int(index)}
            place -= len(part)
        raise IndexError(f"There is no sample {index} in {len(self)} samples of {len(self.parts)} sources.")


def parts_of(dataset: Any) -> dict[str, Any]:
    """Return the datasets of the sources of a modality by name; a single source has the name ""."""
    if isinstance(dataset, JoinedDataset):
        return dict(zip(dataset.names, dataset.parts, strict=True))
    return {"": dataset}


def read_entries(option: str, value: Any, defaults: Mapping[str, Any] | None = None) -> list[SourceEntry]:
    """Return the sources that an option lists.

    Args:
        option: Name of the option, such as "data.audio", for messages.
        value: A source, or a list of sources and of mappings with the fields of `SourceEntry`.
        defaults: Fields for all sources; those of an entry override them.

    Raises:
        OptionError: If an entry is something else, has an unknown key, or a ratio that is not positive.
    """
    entries = []
    for number, entry in enumerate(value if isinstance(value, list) else [value]):
        where = f"{option}[{number}]" if isinstance(value, list) else option
        fields = entry if isinstance(entry, Mapping) else {"source": entry}
        made = build_section(SourceEntry, {**(defaults or {}), **fields}, f"{where}.")
        if made.ratio is not None and not 0 < made.ratio < math.inf:
            raise OptionError(f"{where}.ratio is {made.ratio}. It must be a positive number, or be left out.")
        if made.source is None:
            raise OptionError(
                f"{where} names no data. Give a folder, a file or the name of a data set on the Hub; "
                f"{where}=builtin is a small built-in sample."
            )
        if not made.source.strip():  # as a path it would be the working directory
            raise OptionError(f"{where} is empty. Name a source.")
        entries.append(made)
    if not entries:
        raise OptionError(f"{option} is an empty list. Name a source.")
    return entries


def entries_of(options: Options, modality: str, defaults: Mapping[str, Any] | None = None) -> list[SourceEntry]:
    """Return the sources that a modality of a run is trained on.

    Args:
        options: Options of the run.
        modality: Name of the modality.
        defaults: Fields of `SourceSettings` for all sources; those of the `dataset` section override them.

    Raises:
        OptionError: If the section or an entry has an unknown key, or a value of the wrong type.
    """
    section = getattr(options, modality)
    build_section(SourceSettings, section.dataset, f"{modality}.dataset.")
    fields = {"split": section.split, **(defaults or {}), **section.dataset}
    return read_entries(f"data.{modality}", getattr(options.data, modality), fields)


def open_entries(modality: str, entries: Sequence[SourceEntry], stream_block: int | None = None) -> Any:
    """Open the dataset of a modality: that of its only source, or a `JoinedDataset`.

    Args:
        modality: Name of the modality.
        entries: The sources.
        stream_block: See `open_dataset`.

    Raises:
        ValueError: If a source has no such split, column or group, or no samples.
        FileNotFoundError: If a path does not exist.
    """
    parts = [open_dataset(modality, entry.source, entry.split, entry, stream_block=stream_block) for entry in entries]
    if len(parts) == 1:
        return parts[0]
    return JoinedDataset(parts, names_of(entries), [entry.ratio for entry in entries])


def names_of(entries: Sequence[SourceEntry]) -> list[str]:
    """Return short names of sources: the last part of each path, numbered if two are the same."""
    names: list[str] = []
    for entry in entries:
        short = Path(entry.source).stem
        same = sum(name.partition("#")[0] == short for name in names)
        names.append(f"{short}#{same + 1}" if same else short)
    return names


def open_sources(options: Options, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Open the raw datasets to pretrain on by modality: a `RawDataset`, or a `JoinedDataset` of several sources.

    Labels are not read unless a source asks for them.

    Args:
        options: Options of the run.
        defaults: Fields of `SourceSettings` that follow from the model, by modality.
    """
    block = options.data.shuffle_buffer if options.data.streaming else None
    entries = {
        name: entries_of(options, name, {"read_labels": False, **(defaults or {}).get(name, {})})
        for name in options.modalities
    }
    return {name: open_entries(name, sources, block) for name, sources in entries.items()}
