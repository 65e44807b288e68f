"""Several sources of one modality: how they are named in the options, and the data set that joins them."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from d2v_train.data.records import open_dataset
from d2v_train.data.report import DataReport
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options


class SourceEntry(NamedTuple):
    """One source as the options name it."""

    source: str | None
    split: str
    ratio: float | None
    arguments: dict[str, Any]
    """Further arguments of `open_dataset`."""


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


def read_entries(option: str, value: Any, split: str, defaults: Mapping[str, Any]) -> list[SourceEntry]:
    """Sources that an option names.

    Args:
        option: its name, such as "data.audio", for messages.
        value: a source, or a list of sources and mappings with the keys `source`, `split`, `ratio` and arguments of
            `open_dataset`.
        split: of those that name none.
        defaults: arguments of `open_dataset` for all of them; those of an entry go before.

    Raises:
        OptionError: an entry is something else, has an unknown key, or a ratio that is not positive.
    """
    valid = ["source", "split", "ratio", *_arguments_of(open_dataset)]
    valid.remove("stream_block")
    entries = []
    for number, entry in enumerate(value if isinstance(value, list) else [value], start=1):
        where = f"Entry {number} of {option}" if isinstance(value, list) else option
        fields = dict(entry) if isinstance(entry, Mapping) else {"source": entry}
        for key in fields:
            if key not in valid:
                nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0.0)[0]
                raise OptionError(f"{where} has no key {key!r}. The nearest valid one is {nearest!r}.")
        ratio = fields.pop("ratio", None)
        is_number = isinstance(ratio, int | float) and not isinstance(ratio, bool)
        if ratio is not None and not (is_number and 0 < ratio < math.inf):
            raise OptionError(f"{where} has the ratio {ratio!r}. It must be a positive number, or be left out.")
        source, its_split = fields.pop("source", None), fields.pop("split", split)
        if not isinstance(source, str | None) or not isinstance(its_split, str):
            raise OptionError(f"{where} has the source {source!r} and the split {its_split!r}. Both must be text.")
        if source is not None and not source.strip():  # as a path it would mean the folder that one happens to be in
            raise OptionError(f"{where} is empty. Name a source, or set it to null for the built-in data.")
        entries.append(SourceEntry(source, its_split, ratio, {**defaults, **fields}))
    if not entries:
        raise OptionError(f"{option} is an empty list. Name a source, or set it to null for the built-in data.")
    return entries


def open_entries(modality: str, entries: Sequence[SourceEntry], option: str, stream_block: int | None = None) -> Any:
    """Data set of a modality: of its only source, or a `JoinedDataset`.

    Args:
        modality: its name.
        entries: the sources.
        option: that names their arguments, for messages.
        stream_block: see `open_dataset`.

    Raises:
        OptionError: an entry has an argument of a wrong kind.
        ValueError: a source has no such split, column or group, or no samples.
        FileNotFoundError: a path does not exist.
    """
    parts = []
    for entry in entries:
        try:
            parts.append(
                open_dataset(modality, entry.source, entry.split, stream_block=stream_block, **entry.arguments)
            )
        except TypeError as error:
            raise OptionError(f"{option} holds an argument that open_dataset does not take: {error}.") from error
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


def _arguments_of(function: Callable) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def open_sources(options: Options, channels: int | None = None) -> dict[str, Any]:
    """Raw data sets of the run by modality: a `RawDataset`, or a `JoinedDataset` of several sources.

    Args:
        options: the run's options.
        channels: channels of the images; None keeps `open_dataset`'s default.
    """
    sources = {}
    for name in options.modalities:
        section = getattr(options, name)
        extra = dict(section.dataset)
        if name == "vision" and channels is not None:
            extra.setdefault("channels", channels)
        entries = read_entries(f"data.{name}", getattr(options.data, name), section.split, extra)
        block = options.data.shuffle_buffer if options.data.streaming else None
        sources[name] = open_entries(name, entries, f"{name}.dataset", block)
    return sources
