"""Tables of columns: those of the `datasets` library, and streamed parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.label_columns import encode_labels
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.rows import DatasetRows, MemoryRows, Rows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    ColumnNotFoundError,
    SourceSettings,
    Table,
    UnclearColumnError,
    find_text_columns,
    pick_split,
    read_lengths,
    transcript_column,
    usual_column,
)


MAX_TEXT_BYTES = 2**29
"""Text up to this size, in bytes, is read into memory at once, which is ten times as fast as row by row."""


def stream_parquet(modality: str, files: Any, split: str, settings: SourceSettings, where: str) -> Table:
    """Return the table of one split whose rows are read when they are needed, without labels and transcripts.

    Args:
        modality: "text", "vision" or "audio".
        files: Files by split.
        split: The split.
        settings: What to read.
        where: Name of the source.

    Raises:
        ValueError: If `files` is None, or not all are parquet.
    """
    if not files:  # the cache of the library does not list the files of a dataset
        raise ValueError(
            f"The files of {where} are unknown, for example because the Hub cannot be reached. Set "
            "data.streaming=false to use what was downloaded."
        )
    if not all(str(file).endswith(".parquet") for part in files.values() for file in part):
        raise ValueError(
            f"{where} is not stored as parquet, the only format that is streamed from the Hub. Set "
            "data.streaming=false to download it, or convert it to parquet."
        )
    rows = ParquetRows(files[pick_split(split, list(files), where)])
    rows.columns = _input_columns(modality, rows.features, settings.column, where)
    existing = list(rows.features)
    group = usual_column(existing, settings.group_column, GROUP_COLUMNS, "group", where)
    groups = None if group is None else [str(name) for name in rows.column(group)]
    length = usual_column(existing, settings.length_column, (), "length", where)
    lengths = None if length is None else read_lengths(rows.column(length), f"column {length!r} of {where}")
    return Table(rows, groups=groups, lengths=lengths)


def table_of(modality: str, splits: Any, split: str, settings: SourceSettings, where: str) -> Table:
    """Return the table of one split of a `datasets.DatasetDict`, with its media columns undecoded."""
    from datasets import Audio, ClassLabel, Image

    dataset = splits[pick_split(split, list(splits), where)]
    existing = list(dataset.features)
    inputs = _input_columns(modality, dataset.features, settings.column, where)
    label = usual_column(existing, settings.label_column, LABEL_COLUMNS, "label", where)
    group = usual_column(existing, settings.group_column, GROUP_COLUMNS, "group", where)
    kind = RECORD_KINDS[modality]
    text = None if kind.is_text else transcript_column(existing, settings.text_column, where)
    length = usual_column(existing, settings.length_column, (), "length", where)
    for column in inputs:
        feature = dataset.features[column]
        if isinstance(feature, Image | Audio):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    labels = label_names = None
    if label is not None:
        feature = dataset.features[label]
        known = list(feature.names) if isinstance(feature, ClassLabel) else None
        raw = dataset[label][:]
        is_named = feature.dtype in ("string", "large_string")
        universe = {name for part in splits.values() for name in part.unique(label)} if is_named else ()
        labels, label_names = encode_labels(raw, known, universe, f"column {label!r} of {where}")
    groups = None if group is None else [str(name) for name in dataset[group][:]]
    transcripts = None if text is None else ["" if value is None else str(value) for value in dataset[text][:]]
    values: Rows = DatasetRows(dataset, inputs)
    if kind.is_text and dataset.data.nbytes < MAX_TEXT_BYTES:
        texts = [dataset[column][:] for column in inputs]
        values = MemoryRows(texts[0] if len(texts) == 1 else list(zip(*texts, strict=True)))
    lengths = None if length is None else read_lengths(dataset[length][:], f"column {length!r} of {where}")
    return Table(values, labels, groups, label_names, transcripts, lengths)


def _input_columns(modality: str, features: Any, wanted: str | Sequence[str] | None, where: str) -> list[str]:
    if wanted is not None:
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        unknown = [name for name in wanted if name not in features]
        if unknown:
            raise ColumnNotFoundError(f"There is no column {unknown[0]!r} in {where}. It has: {', '.join(features)}.")
        return wanted
    kind = RECORD_KINDS[modality]
    if kind.is_text:
        strings = ("string", "large_string")
        candidates = [name for name, feature in features.items() if getattr(feature, "dtype", None) in strings]
        found = find_text_columns(list(features), candidates)
    else:
        candidates = [name for name, feature in features.items() if type(feature).__name__ == kind.feature]
        if not candidates:  # parquet written without the library's metadata: bytes, or a struct of bytes and path
            candidates = [name for name in features if name in kind.columns]
        named = [name for name in kind.columns if name in candidates]
        found = named[:1] or (candidates if len(candidates) == 1 else None)
    if found:
        return found
    hint = f"it may be one of: {', '.join(candidates)}" if candidates else f"it has: {', '.join(features)}"
    raise UnclearColumnError(f"It is unclear which column of {where} holds the {modality} input; {hint}.")
