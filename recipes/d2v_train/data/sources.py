"""Find the records behind a source name: built-in data, local folders and files, parquet, or the Hugging Face Hub.

Every source becomes a `Table` of undecoded values; `records.py` decodes them. Parquet and the Hub are read by the
`datasets` library with decoding switched off, so that a damaged file fails where it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.folders import open_media_folder, open_text_files, shown_in, text_files_by_split
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.parquet_rows import ParquetRows
from d2v_train.data.rows import DatasetRows, MemoryRows, Rows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    ColumnNotFoundError,
    SourceSettings,
    Table,
    UnclearColumnError,
    concatenate,
    encode_labels,
    find_text_columns,
    pick_split,
    read_lengths,
    transcript_column,
    usual_column,
)
from d2v_train.data.text_rows import TextRows


MAX_TEXT_BYTES = 2**29
"""Text up to this size, in bytes, is read into memory at once, which is ten times as fast as row by row."""


def open_table(
    modality: str, source: str | None, split: str, settings: SourceSettings, streaming: bool = False
) -> Table:
    """Open one split of a source, or several joined by "+"; see `open_dataset` for the kinds of source.

    Args:
        modality: "text", "vision" or "audio".
        source: The source.
        split: The split or splits.
        settings: What to read.
        streaming: Whether parquet and text files are read when their rows are needed, instead of being converted to a
            memory-mapped table, or read into memory.

    Raises:
        ValueError: If the source has no such split or column, or no data of this modality.
        FileNotFoundError: If the source is a path that does not exist, or does not exist on the Hub either.
        ConnectionError: If it is not a local path, and the Hub cannot be reached.
    """
    parts = [_open_split(modality, source, part.strip(), settings, streaming) for part in split.split("+")]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _open_split(modality: str, source: str | None, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if source is None or source == "builtin":
        return RECORD_KINDS[modality].builtin(pick_split(split, ["train", "test"], "the built-in data"))
    path = Path(source).expanduser()
    if path.exists():
        return _open_local(modality, path, split, settings, streaming)
    base, _, name = source.rpartition(":")
    if base and Path(base).expanduser().is_dir():
        return _open_split(modality, str(Path(base) / name), split, settings, streaming)
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path or path.suffix in (".parquet", *RECORD_KINDS[modality].suffixes):
        raise FileNotFoundError(
            f"The {modality} source {source!r} does not exist. Give an existing folder or file, or a Hub name such as "
            f"'user/name' or 'user/name:config'."
        )
    from datasets import load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    name, _, config = source.partition(":")
    load = load_dataset_builder if streaming else load_dataset
    try:
        loaded = load(name, config or None)
    except (ConnectionError, DatasetNotFoundError) as error:
        # For a mistyped folder, the message of the library would mention the Hub only.
        raise type(error)(
            f"The {modality} source {source!r} is not a file or folder, and cannot be read from the Hub: "
            f"{str(error).removesuffix(chr(46))}."
        ) from error
    if streaming:
        return _stream_parquet(modality, loaded.config.data_files, split, settings, source)
    return table_of(modality, loaded, split, settings, source)


def _open_local(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if path.suffix == ".parquet" if path.is_file() else any(path.rglob("*.parquet")):
        from datasets import load_dataset, load_dataset_builder

        where = _parquet_arguments(path)
        if streaming:
            files = load_dataset_builder("parquet", **where).config.data_files
            return _stream_parquet(modality, files, split, settings, str(path))
        return table_of(modality, load_dataset("parquet", **where), split, settings, str(path))
    kind = RECORD_KINDS[modality]
    if kind.is_text:
        table = (_stream_text if streaming else open_text_files)(path, split, settings, kind.suffixes)
        if table is not None:
            return table
    if path.is_file():
        raise ValueError(
            f"The {modality} source {str(path)!r} is a file of an unsupported format. Give parquet, "
            f"{' or '.join(kind.suffixes) if kind.is_text else 'or the folder that holds the files'}."
        )
    return open_media_folder(modality, path, split, settings)


def _parquet_arguments(path: Path) -> dict[str, Any]:
    """Return the arguments of `load_dataset` for a parquet file or folder; file names determine the splits."""
    if path.is_file():
        return {"data_files": {"train": str(path)}}
    nested = sorted({file.parent.name for file in path.glob("*/*.parquet")})
    if nested and not any(path.glob("*.parquet")) and not {*nested} <= {"data", *SPLIT_NAMES}:
        raise ValueError(
            f"The folder {str(path)!r} holds several datasets: {', '.join(nested)}. Name one of them, such as "
            f"{str(path / nested[0])!r}."
        )
    return {"data_dir": str(path)}


def _stream_parquet(modality: str, files: Any, split: str, settings: SourceSettings, where: str) -> Table:
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


def _stream_text(path: Path, split: str, settings: SourceSettings, suffixes: Sequence[str]) -> Table | None:
    """Return the table of one split of text files that are read when needed; None if there are no such files."""
    splits = text_files_by_split(path, suffixes)
    if not splits:
        return None
    files = splits[pick_split(split, list(splits), str(path))]
    rows = TextRows([(file, shown_in(file, path)) for file in files], settings)
    return Table(rows, groups=rows.groups)


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
