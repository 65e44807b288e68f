"""Find the records behind a source name: built-in data, local folders and files, parquet, or the Hugging Face Hub.

Every source becomes a `Table` of undecoded values; `records.py` decodes them. Parquet and the Hub are read by the
`datasets` library with decoding switched off, so that a damaged file fails where it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.dataset_tables import stream_parquet, table_of
from d2v_train.data.inventory import shown_in
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.media_folders import open_media_folder
from d2v_train.data.tables import SPLIT_NAMES, SourceSettings, Table, concatenate, pick_split
from d2v_train.data.text_files import open_text_files, text_files_by_split
from d2v_train.data.text_rows import TextRows


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
        return stream_parquet(modality, loaded.config.data_files, split, settings, source)
    return table_of(modality, loaded, split, settings, source)


def _open_local(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if path.suffix == ".parquet" if path.is_file() else any(path.rglob("*.parquet")):
        from datasets import load_dataset, load_dataset_builder

        where = _parquet_arguments(path)
        if streaming:
            files = load_dataset_builder("parquet", **where).config.data_files
            return stream_parquet(modality, files, split, settings, str(path))
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


def _stream_text(path: Path, split: str, settings: SourceSettings, suffixes: Sequence[str]) -> Table | None:
    """Return the table of one split of text files that are read when needed; None if there are no such files."""
    splits = text_files_by_split(path, suffixes)
    if not splits:
        return None
    files = splits[pick_split(split, list(splits), str(path))]
    rows = TextRows([(file, shown_in(file, path)) for file in files], settings)
    return Table(rows, groups=rows.groups)
