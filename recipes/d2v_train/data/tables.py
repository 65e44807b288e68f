"""Undecoded records, and the usual names of columns and splits."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2v_train.data.inventory import Inventory
from d2v_train.data.rows import JoinedRows, MemoryRows, Rows
from d2v_train.data.text_lines import DOCUMENT_RULES


logger = logging.getLogger(__name__)

SAMPLING_RATE = 16_000
"""Rate of decoded recordings, in Hz."""

SPLIT_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "test", "eval"),
    "test": ("test", "eval", "validation", "valid", "val", "dev"),
}
"""Accepted names of each split, best first."""
SPLIT_NAMES = {name for names in SPLIT_ALIASES.values() for name in names}

TEXT_COLUMNS = ("text", "sentence", "document", "content", "article", "paragraph")
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
)
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "intent_class", "target", "cls")
GROUP_COLUMNS = ("speaker", "speaker_id", "client_id", "group")
RATE_COLUMNS = ("sampling_rate", "sample_rate", "samplerate")
PATH_COLUMNS = ("file_name", "filename", "file", "path", "filepath", "file_path")
"""Columns of tables that name files of images or recordings, besides those of `RecordKind.columns`."""
TRANSCRIPT_COLUMNS = ("text", "transcript", "transcription", "sentence", "normalized_text")
"""Names that a program may pass as `SourceSettings.text_column`; without it no transcripts are read."""


class SplitNotFoundError(ValueError):
    """A source does not have the requested split.

    Args:
        message: Which split, of which source, and the splits that exist.
        existing: The splits that exist.
    """

    def __init__(self, message: str, existing: Sequence[str] = ()):
        super().__init__(message)
        self.existing = list(existing)


class NoSamplesError(ValueError):
    """A source holds no samples of a modality."""


class ColumnNotFoundError(ValueError):
    """A source does not have a requested column.

    Args:
        message: Which column, of which source, and the columns that exist.
        role: Content of the column: "input", "transcript", "label", "group" or "length".
    """

    def __init__(self, message: str, role: str = "input"):
        super().__init__(message)
        self.role = role


class UnclearColumnError(ValueError):
    """It is unclear which column of a source holds the input.

    Args:
        problem: Sentence about the source and its columns.
        option: Option that names the column; see `column_named_by`.
    """

    def __init__(self, problem: str, option: str = "the option `column`"):
        super().__init__(problem, option)
        self.problem, self.option = problem, option

    def __str__(self) -> str:
        return f"{self.problem} Name it with {self.option}."


@contextmanager
def column_named_by(option: str) -> Iterator[None]:
    """Set the option that an `UnclearColumnError` of the block names, such as "--text_column"."""
    try:
        yield
    except UnclearColumnError as error:
        error.option = option
        raise


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """How the samples of a source are found and read: the fields of a `dataset` section of the options.

    Raises:
        ValueError: If `documents`, `cache` or `on_bad` has another value, or the encoding is unknown.
    """

    column: str | list[str] | None = None
    """Input column, or two for sentence pairs; null finds it by type and name."""
    label_column: str | None = None
    """Column of the label; null takes the first of the usual names, if any."""
    group_column: str | None = None
    """Column of the speaker or another origin; null takes the first of the usual names, if any."""
    read_labels: bool = True
    """Whether labels are read. Pretraining leaves them out of its training data, whatever the label column holds."""
    text_column: str | list[str] | tuple[str, ...] | None = None
    """Column of the transcripts of recordings (or captions of images); of several names, the first that exists; null
    reads none."""
    length_column: str | None = None
    """Column of the lengths of recordings, in samples at 16 kHz (whole numbers) or seconds; null takes them from the
    headers of the files."""
    only_groups: list[str] | None = None
    """Keep only the samples of these groups."""
    exclude_groups: list[str] | None = None
    """Leave out the samples of these groups, for example a speaker to test on."""
    max_samples: int | None = None
    """Keep at most this many samples, drawn at random once; their order is kept."""
    channels: int | None = 3
    """Channels of images: 3 (RGB), 1 (grey), or null to keep their own."""
    value_range: list[float] | None = None
    """Values that become black and white in images of more than 8 bits and of floats; null takes those of each image
    (bits of whole numbers, [0, 1] of floats, else its least and greatest pixel)."""
    max_pixels: int = 100_000_000
    """Most pixels of an image. Larger JPEGs are decoded at a half, quarter or eighth of their size, others are bad.
    Decoding takes 8 bytes a pixel, 12 for floats."""
    sampling_rate: int | None = None
    """Rate in Hz of recordings that are stored as arrays of samples without their rate."""
    num_dims: int | None = None
    """Dimensions of arrays without their channels, 1 to 3; programs set it to that of the model; null takes all sides
    but the last one."""
    num_channels: int | None = None
    """Channels of arrays; programs set it to that of the model; null takes any number."""
    channels_first: bool = False
    """Whether the channels of arrays are their first side instead of their last."""
    cache: bool | str = "auto"
    """Which decoded samples a process keeps: `auto` up to 256 MiB, true all, false none."""
    encoding: str = "utf-8"
    """Encoding of files of text, csv, tsv and json, such as `latin-1`; a byte order mark is skipped."""
    documents: str = "paragraphs"
    """What is a document of a file of plain text: `paragraphs` what blank lines separate, `lines` each line, `files`
    the whole file. Documents of more than 1 MiB are read in parts."""
    on_bad: str = "substitute"
    """What happens to a bad sample: `substitute` replaces it by the next good one, `raise` raises `BadSample`."""

    def __post_init__(self):
        if self.on_bad not in ("substitute", "raise"):
            raise ValueError(f"Option on_bad is {self.on_bad!r}; it must be 'substitute' or 'raise'.")
        if self.documents not in DOCUMENT_RULES:
            raise ValueError(f"Option documents is {self.documents!r}; it must be one of {', '.join(DOCUMENT_RULES)}.")
        if self.cache not in ("auto", True, False):
            raise ValueError(f"Option cache is {self.cache!r}; it must be 'auto', true or false.")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(
                f"Option encoding is {self.encoding!r}, which is unknown. Usual ones: utf-8, utf-16, latin-1, cp1252."
            ) from error
        limits = self.value_range
        if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
            raise ValueError(f"Option value_range is {limits!r}; it must be [low, high] with low < high, or null.")
        for name in ("max_pixels", "sampling_rate", "num_dims", "num_channels"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"Option {name} is {getattr(self, name)}; it must be at least 1.")
        if self.num_dims is not None and self.num_dims > 3:
            raise ValueError(f"Option num_dims is {self.num_dims}; arrays have 1 to 3 dimensions and channels.")


AS_FOUND = SourceSettings()
"""Default settings of a source."""


@dataclass
class Table:
    """Undecoded records.

    Attributes:
        values: One undecoded value per record; a sequence becomes `MemoryRows`.
        labels: (N,) int64 or float32, or None.
        groups: N strings, or None.
        label_names: Names of the classes, or None.
        transcripts: Text that belongs to each record, "" where there is none, or None.
        lengths: Samples at 16 kHz of each recording, int64 (N,), -1 where unknown, or None.
        inventory: What the whole source is read as, or None.
    """

    values: Rows
    labels: np.ndarray | None = None
    groups: Sequence[str] | None = None
    label_names: list[str] | None = None
    transcripts: list[str] | None = None
    lengths: np.ndarray | None = None
    inventory: Inventory | None = None

    def __post_init__(self):
        if isinstance(self.values, Sequence | np.ndarray):
            self.values = MemoryRows(self.values)


def is_missing(value: Any) -> bool:
    """Return whether a cell has no value: null, NaN or white space; the words NA, None and null are values."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def find_split(wanted: str, existing: Sequence[str]) -> str | None:
    """Return the existing split that `wanted` means, or None.

    `test` and `validation` stand for one another, and `train` for all whose names begin so, such as train.clean.100.
    """
    begin = re.match("[a-z]*", wanted.lower()).group()
    kind = "train" if begin in SPLIT_ALIASES["train"] else wanted
    return next((name for name in (wanted, *SPLIT_ALIASES.get(kind, ())) if name in existing), None)


def pick_split(wanted: str, existing: Sequence[str], where: str) -> str:
    """Return the existing split that `wanted` means, see `find_split`; another name than `wanted` is logged.

    Raises:
        SplitNotFoundError: If there is none.
    """
    name = find_split(wanted, existing)
    if name is not None:
        if name != wanted:
            logger.warning("%s has no split %r; using its split %r.", where, wanted, name)
        return name
    found = ", ".join(sorted(existing)) or "none"
    raise SplitNotFoundError(f"There is no split {wanted!r} in {where}. It has: {found}.", existing)


def usual_column(
    existing: Sequence[str], wanted: str | None, usual: Sequence[str], role: str, where: str
) -> str | None:
    """Return the column `wanted`, or else the first of the `usual` ones that exists, or None.

    Raises:
        ColumnNotFoundError: If `wanted` is given and does not exist.
    """
    if wanted is None:
        return next((name for name in usual if name in existing), None)
    if wanted not in existing:
        raise ColumnNotFoundError(
            f"There is no {role} column {wanted!r} in {where}. It has: {', '.join(existing)}.", role
        )
    return wanted


def transcript_column(existing: Sequence[str], wanted: str | Sequence[str] | None, where: str) -> str | None:
    """Return the column of the transcripts: `wanted`, or the first of several names that exists; None if not wanted.

    Raises:
        ColumnNotFoundError: If none of the names exists.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted or ())
    found = next((name for name in names if name in existing), None)
    if names and found is None:
        raise ColumnNotFoundError(
            f"There is no column of transcripts in {where}: it has {', '.join(existing) or 'no columns'}, but not "
            f"{' or '.join(names)}.",
            "transcript",
        )
    return found


def find_text_columns(existing: Sequence[str], candidates: Sequence[str]) -> list[str] | None:
    """Return the text column among `candidates`, or the two of a sentence pair; None if it is unclear."""
    for pair in TEXT_PAIRS:
        if all(column in existing for column in pair):
            return list(pair)
    named = [name for name in TEXT_COLUMNS if name in candidates]
    if named or len(candidates) == 1:
        return [named[0] if named else candidates[0]]
    return None


def read_lengths(raw: Sequence[Any], where: str) -> np.ndarray:
    """Return lengths in samples at 16 kHz, int64 (N,), of a column of samples (whole numbers) or seconds; -1 if empty.

    Raises:
        ValueError: If a value is not a positive number.
    """
    lengths = np.full(len(raw), -1, dtype=np.int64)
    for row, value in enumerate(raw):
        if value is None or value == "":
            continue
        text = str(value)
        try:
            lengths[row] = int(text) if text.isdecimal() else round(float(text) * SAMPLING_RATE)
        except (ValueError, OverflowError):
            lengths[row] = 0
        if lengths[row] <= 0:
            raise ValueError(
                f"The length {value!r} in row {row} of {where} is not a positive number of samples or seconds. Give "
                "samples at 16 kHz as whole numbers, or seconds with a decimal point."
            )
    return lengths


def concatenate(parts: Sequence[Table]) -> Table:
    """Join tables of one source.

    Raises:
        ValueError: If their classes differ.
    """
    first = parts[0]
    if any(part.label_names != first.label_names for part in parts):
        raise ValueError("The splits to be joined do not have the same classes; open them one by one.")
    labels = None if any(part.labels is None for part in parts) else np.concatenate([part.labels for part in parts])
    groups = None if any(part.groups is None for part in parts) else [name for part in parts for name in part.groups]
    transcripts = None
    if all(part.transcripts is not None for part in parts):
        transcripts = [text for part in parts for text in part.transcripts]
    lengths = None if any(part.lengths is None for part in parts) else np.concatenate([part.lengths for part in parts])
    values = JoinedRows([part.values for part in parts])
    return Table(values, labels, groups, first.label_names, transcripts, lengths, first.inventory)
