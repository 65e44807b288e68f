"""Find the records behind a source name: built-in data, local folders and files, parquet, or the Hugging Face Hub.

Every source becomes a `Table` of undecoded values; `records.py` decodes them. Parquet and the Hub are read by the
`datasets` library with decoding switched off, so that a damaged file fails where it is counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.accounts import completed, suffix_of, suffixes_of
from d2v_train.data.dataset_tables import stream_parquet, table_of
from d2v_train.data.inventory import Inventory, merged, shown_in
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.layouts import LISTS
from d2v_train.data.listing import FolderListing, UrlListing, ZipListing, is_url
from d2v_train.data.media_folders import open_media
from d2v_train.data.metadata_files import METADATA_NAMES
from d2v_train.data.tables import SPLIT_NAMES, SourceSettings, SplitNotFoundError, Table, concatenate, pick_split
from d2v_train.data.text_files import open_text_files, text_files_by_split
from d2v_train.data.text_rows import TextRows


TABLES_LOOKED_AT = 8
"""Number of tables beside files of the modality whose columns decide what a folder is read as."""


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
    table = parts[0] if len(parts) == 1 else concatenate(parts)
    table.inventory = merged([part.inventory for part in parts])
    return table


def take_inventory(modality: str, source: str | None, settings: SourceSettings) -> Inventory:
    """Return what a source is read as for a modality, with the samples of all its splits counted.

    Arguments and errors are those of `open_table`.
    """
    try:
        opened = [open_table(modality, source, "train", settings).inventory]
    except SplitNotFoundError as error:
        if not error.existing:
            raise
        opened = [open_table(modality, source, error.existing[0], settings).inventory]
    uncounted = [name for name, count in opened[0].samples.items() if count is None]
    return merged([*opened, *(open_table(modality, source, name, settings).inventory for name in uncounted)])


def _open_split(modality: str, source: str | None, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if source is None or source == "builtin":
        names = ["train", "test"]
        name = pick_split(split, names, "the built-in data")
        table = RECORD_KINDS[modality].builtin(name)
        samples = dict.fromkeys(names) | {name: len(table.values)}
        table.inventory = Inventory("builtin", "the built-in data", samples)
        return table
    path = local_path(source)
    if path is not None:
        return _open_local(modality, path, split, settings, streaming)
    if is_url(source):
        return _open_url(modality, source, split, settings)
    base, _, name = source.rpartition(":")
    folder = local_path(base) if base else None
    if folder is not None and folder.is_dir():
        return _open_split(modality, str(folder / name), split, settings, streaming)
    is_path = source.startswith((".", "/", "~")) or source.count("/") > 1
    if is_path or suffix_of(source) in (".parquet", ".zip", *suffixes_of(modality)):
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
        table = stream_parquet(modality, loaded.config.data_files, split, settings, source)
    else:
        table = table_of(modality, loaded, split, settings, source)
    names = loaded.config.data_files if streaming else loaded
    name = pick_split(split, list(names), source)
    table.inventory = Inventory(source, "a dataset of the Hub", dict.fromkeys(names) | {name: len(table.values)})
    return table


def local_path(source: str) -> Path | None:
    """Return the file or folder that a source names, literally or below the home folder; None if it does not exist."""
    source = source.removeprefix("file://")
    for path in (source, os.path.expanduser(source)):
        if os.path.exists(path):
            return Path(path)
    return None


def _open_local(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if path.is_file():
        return _open_file(modality, path, split, settings, streaming)
    listing = FolderListing(path)
    table = None
    if _holds_tables(modality, listing):
        table = _open_tables(modality, path, split, settings, streaming)
    elif RECORD_KINDS[modality].is_text:
        table = _open_text(modality, path, split, settings, streaming)
    if table is None:
        return open_media(modality, listing, split, settings, str(path))
    table.inventory = completed(table.inventory or Inventory(str(path)), modality, listing)
    return table


def _open_file(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    kind, suffix = RECORD_KINDS[modality], suffix_of(path.name)
    if suffix == ".parquet":
        return _open_tables(modality, path, split, settings, streaming)
    if kind.is_text:
        table = _open_text(modality, path, split, settings, streaming)
        if table is not None:
            return table
    elif suffix == ".zip":
        return open_media(modality, ZipListing(path), split, settings, str(path))
    elif suffix in suffixes_of(modality) or any(layout.claims(path.name) for layout in LISTS):
        return open_media(modality, FolderListing(path.parent, [path.name]), split, settings, str(path), LISTS)
    others = (
        " or ".join(kind.suffixes) if kind.is_text else "the folder or .zip that holds the files, or a list of them"
    )
    raise ValueError(
        f"The {modality} source {str(path)!r} is a file of an unsupported format. Give parquet, {others}."
    )


def _open_url(modality: str, url: str, split: str, settings: SourceSettings) -> Table:
    listing = UrlListing(url)
    if RECORD_KINDS[modality].is_text:
        raise ValueError(f"Text is not read from {url}. Give parquet there, or download the files.")
    return open_media(modality, listing, split, settings, url)


def _holds_tables(modality: str, listing: FolderListing) -> bool:
    """Return whether a folder is a table of columns, not a folder of files that may lie beside a table.

    It is one if it holds tables, and either no files of the modality, or a table that has a column for them.
    """
    tables = [name for name in listing.names if suffix_of(name) == ".parquet"]
    suffixes = frozenset(suffixes_of(modality))
    if not tables or not any(suffix_of(name) in suffixes for name in listing.names):
        return bool(tables)
    others = [name for name in tables if name.rpartition("/")[2].lower() not in METADATA_NAMES]
    return any(_has_inputs(modality, listing.value(name)) for name in others[:TABLES_LOOKED_AT])


def _has_inputs(modality: str, path: str) -> bool:
    """Return whether a parquet file has a column of inputs of the modality."""
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (pyarrow.ArrowInvalid, OSError):
        return False
    kind = RECORD_KINDS[modality]
    features = (schema.metadata or {}).get(b"huggingface", b"").decode("utf-8", "replace")
    return not {*kind.columns}.isdisjoint(schema.names) or f'"_type": "{kind.feature}"' in features


def _open_tables(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    from datasets import load_dataset, load_dataset_builder

    where = _parquet_arguments(path)
    if streaming:
        files = load_dataset_builder("parquet", **where).config.data_files
        return stream_parquet(modality, files, split, settings, str(path))
    return table_of(modality, load_dataset("parquet", **where), split, settings, str(path))


def _open_text(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table | None:
    return (_stream_text if streaming else open_text_files)(path, split, settings, RECORD_KINDS[modality].suffixes)


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
