"""Several sources of one modality: how they are named in the options, and the data set that joins them."""

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
    """One source as the options name it."""

    source: str | None = None
    """Folder, file or name on the Hub; None is the built-in data."""
    split: str = "train"
    """Its split."""
    ratio: float | None = None
    """How often it is taken, see `Mixture`."""


class JoinedDataset(Dataset):
    """The sources of one modality, one after another; a record's id is its place among all of them.

    Args:
        parts: data set of each source.
        names: of the sources, for logs.
        ratios: how often each is taken, see `Mixture`.
    """

    def __init__(self, parts: Sequence[Dataset], names: Sequence[str], ratios: Sequence[float | None]):
        self.parts, self.names, self.ratios = list(parts), list(names), list(ratios)

    def __len__(self) -> int:
        """Records of all sources."""
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def read(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return a record; arguments as of `RawDataset.read`."""
        place = int(index)
        for part in self.parts:
            if 0 <= place < len(part):
                return part.read(place, report, drawn) | {"id": int(index)}
            place -= len(part)
        raise IndexError(f"There is no sample {index} in {len(self)} samples of {len(self.parts)} sources.")


def parts_of(dataset: Any) -> dict[str, Any]:
    """Data sets of the sources of a modality by name; of a single source one, under the name ""."""
    if isinstance(dataset, JoinedDataset):
        return dict(zip(dataset.names, dataset.parts, strict=True))
    return {"": dataset}


def read_entries(option: str, value: Any, defaults: Mapping[str, Any] | None = None) -> list[SourceEntry]:
    """Sources that an option names.

    Args:
        option: its name, such as "data.audio", for messages.
        value: a source, or a list of sources and of mappings with the fields of `SourceEntry`.
        defaults: fields for all of them; those of an entry go before.

    Raises:
        OptionError: an entry is something else, has an unknown key, or a ratio that is not positive.
    """
    entries = []
    for number, entry in enumerate(value if isinstance(value, list) else [value]):
        where = f"{option}[{number}]" if isinstance(value, list) else option
        fields = entry if isinstance(entry, Mapping) else {"source": entry}
        made = build_section(SourceEntry, {**(defaults or {}), **fields}, f"{where}.")
        if made.ratio is not None and not 0 < made.ratio < math.inf:
            raise OptionError(f"{where}.ratio is {made.ratio}. It must be a positive number, or be left out.")
        if made.source is not None and not made.source.strip():  # as a path: the folder that one happens to be in
            raise OptionError(f"{where} is empty. Name a source, or set it to null for the built-in data.")
        entries.append(made)
    if not entries:
        raise OptionError(f"{option} is an empty list. Name a source, or set it to null for the built-in data.")
    return entries


def entries_of(options: Options, modality: str, defaults: Mapping[str, Any] | None = None) -> list[SourceEntry]:
    """Sources that a modality of a run is trained on.

    Args:
        options: the run's options.
        modality: its name.
        defaults: fields of `SourceSettings` for all of them; those of its `dataset` section go before.

    Raises:
        OptionError: the section or an entry has an unknown key, or a value of a wrong kind.
    """
    section = getattr(options, modality)
    build_section(SourceSettings, section.dataset, f"{modality}.dataset.")
    fields = {"split": section.split, **(defaults or {}), **section.dataset}
    return read_entries(f"data.{modality}", getattr(options.data, modality), fields)


def open_entries(modality: str, entries: Sequence[SourceEntry], stream_block: int | None = None) -> Any:
    """Data set of a modality: of its only source, or a `JoinedDataset`.

    Args:
        modality: its name.
        entries: the sources.
        stream_block: see `open_dataset`.

    Raises:
        ValueError: a source has no such split, column or group, or no samples.
        FileNotFoundError: a path does not exist.
    """
    parts = [open_dataset(modality, entry.source, entry.split, entry, stream_block=stream_block) for entry in entries]
    if len(parts) == 1:
        return parts[0]
    return JoinedDataset(parts, names_of(entries), [entry.ratio for entry in entries])


def names_of(entries: Sequence[SourceEntry]) -> list[str]:
    """Short names of sources: the last part of each path, with a number where two would be called the same."""
    names: list[str] = []
    for entry in entries:
        short = Path(entry.source or "builtin").stem
        same = sum(name.partition("#")[0] == short for name in names)
        names.append(f"{short}#{same + 1}" if same else short)
    return names


def open_sources(options: Options, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Raw data sets of the run by modality: a `RawDataset`, or a `JoinedDataset` of several sources.

    Args:
        options: the run's options.
        defaults: fields of `SourceSettings` that follow from the model, by modality.
    """
    block = options.data.shuffle_buffer if options.data.streaming else None
    entries = {name: entries_of(options, name, (defaults or {}).get(name)) for name in options.modalities}
    return {name: open_entries(name, sources, block) for name, sources in entries.items()}
