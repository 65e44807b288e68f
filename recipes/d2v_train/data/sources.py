"""Find the records behind a source: built-in data, local folders and files, tables, URLs, or the Hugging Face Hub.

Every source becomes a `Table` of undecoded values, with the account of its files; `records.py` decodes the values, so
that a damaged one is counted there.
"""

from __future__ import annotations

import os
from pathlib import Path

from d2v_train.data.accounts import completed, is_sample_file, no_samples, suffix_of, suffixes_of
from d2v_train.data.dataset_tables import keep_bars_out_of_logs, open_columns, open_datasets, stream_parquet, table_of
from d2v_train.data.file_formats import UNREADABLE_SUFFIXES
from d2v_train.data.files import is_url, open_file
from d2v_train.data.inventory import Inventory, joined_inventory
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.layouts import LIST_LAYOUTS
from d2v_train.data.listing import FolderListing, Listing, UrlListing, ZipListing
from d2v_train.data.media_folders import open_media
from d2v_train.data.metadata_files import FILE_COLUMNS, METADATA_NAMES
from d2v_train.data.table_files import format_of, is_saved
from d2v_train.data.tables import (
    TEXT_PAIRS,
    NoSamplesError,
    SourceSettings,
    SplitNotFoundError,
    Table,
    concatenate,
    find_split,
    pick_split,
)
from d2v_train.data.text_files import open_text_files


TABLES_LOOKED_AT = 8
"""Number of tables beside files of the modality whose columns decide what a folder is read as."""


def open_table(
    modality: str, source: str | None, split: str, settings: SourceSettings, streaming: bool = False
) -> Table:
    """Open one split of a source, or several joined by "+", each once; see `open_dataset` for the kinds of source.

    Args:
        modality: "text", "vision", "audio" or "arrays".
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
    parts, known = [], set()
    for name in map(str.strip, split.split("+")):
        # Names such as train.clean.100 and train.clean.360 may mean the only split, which is opened once.
        meant = find_split(name, list(parts[0].inventory.samples)) if parts else None
        if meant is None or meant not in known:
            parts.append(_open_split(modality, source, name, settings, streaming))
            known.add(find_split(name, list(parts[0].inventory.samples)))
    table = parts[0] if len(parts) == 1 else concatenate(parts)
    table.inventory = joined_inventory([part.inventory for part in parts])
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
    return joined_inventory([*opened, *(open_table(modality, source, name, settings).inventory for name in uncounted)])


def _open_split(modality: str, source: str | None, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if source is None or source.split(":")[0] == "builtin":
        return _open_builtin(modality, source or "builtin", split)
    path = local_path(source)
    if path is not None:
        return _open_local(modality, path, split, settings, streaming)
    if is_url(source) and not source.startswith("file://"):
        return _open_url(modality, source, split, settings, streaming)
    base, _, name = source.rpartition(":")
    folder = local_path(base) if base else None
    if folder is not None and folder.is_dir():
        return _open_split(modality, str(folder / name), split, settings, streaming)
    is_path = source.startswith((".", "/", "~", "file://")) or source.count("/") > 1
    if is_path or suffix_of(source) in (".parquet", ".zip", *suffixes_of(modality)):
        raise FileNotFoundError(
            f"The {modality} source {source!r} does not exist. Give an existing folder or file, or a Hub name such as "
            f"'user/name' or 'user/name:config'."
        )
    return _open_hub(modality, source, split, settings, streaming)


def _open_builtin(modality: str, source: str, split: str) -> Table:
    tables = RECORD_KINDS[modality].builtin
    if source not in tables:
        raise ValueError(f"There is no built-in data {source!r} of {modality}; there is {', '.join(tables)}.")
    names = ["train", "test"]
    name = pick_split(split, names, "the built-in data")
    table = tables[source](name)
    table.inventory = Inventory(source, "the built-in data", dict.fromkeys(names) | {name: len(table.values)})
    return table


def local_path(source: str) -> Path | None:
    """Return the file or folder that a source names, literally or below the home folder; None if it does not exist."""
    source = source.removeprefix("file://")
    for path in (source, os.path.expanduser(source)):
        if os.path.exists(path):
            return Path(path)
    return None


def _open_hub(modality: str, source: str, split: str, settings: SourceSettings, streaming: bool) -> Table:
    from datasets import load_dataset, load_dataset_builder
    from datasets.exceptions import DatasetNotFoundError

    keep_bars_out_of_logs()
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
        names = loaded.config.data_files
        table = stream_parquet(modality, names, split, settings, source)
    else:
        names = loaded
        table = table_of(modality, open_datasets(loaded), split, settings, source)
    samples = dict.fromkeys(names) | {pick_split(split, list(names), source): len(table.values)}
    table.inventory = Inventory(source, "a dataset of the Hub", samples)
    return table


def _open_local(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    if path.is_file():
        return _open_file(modality, path, split, settings, streaming)
    listing = FolderListing(path)
    if is_saved(path) or _holds_tables(modality, listing):
        table = open_columns(modality, path, split, settings, streaming)
    elif RECORD_KINDS[modality].is_text:
        table = open_text_files(path, split, settings, suffixes_of(modality), streaming, listing.names)
    else:
        try:
            return open_media(modality, listing, split, settings, str(path))
        except NoSamplesError:  # there may be tables of lists of numbers
            table = open_columns(modality, path, split, settings, streaming)
            if table is None:
                raise
    if table is None:
        raise no_samples(modality, listing)
    table.inventory = completed(table.inventory, modality, listing)
    return table


def _open_file(modality: str, path: Path, split: str, settings: SourceSettings, streaming: bool) -> Table:
    kind, suffix, table = RECORD_KINDS[modality], suffix_of(path.name), None
    listing = FolderListing(path.parent, [path.name])
    if kind.is_text:
        table = open_text_files(path, split, settings, kind.suffixes, streaming)
    elif suffix == ".zip":
        return open_media(modality, ZipListing(path), split, settings, str(path))
    elif suffix in kind.suffixes or any(layout.claims(path.name) for layout in LIST_LAYOUTS):
        try:
            return open_media(modality, listing, split, settings, str(path), LIST_LAYOUTS)
        except NoSamplesError:
            if format_of(path) is None:  # else a table of something else than files
                raise
    if table is None:
        table = open_columns(modality, path, split, settings, streaming)
    if table is None:
        others = " or ".join(kind.suffixes) if kind.is_text else "the folder or .zip of the files, or a list of them"
        known = f" ({UNREADABLE_SUFFIXES[suffix]})" if suffix in UNREADABLE_SUFFIXES else ""
        raise NoSamplesError(
            f"The {modality} source {str(path)!r} is a file of an unsupported format{known}. Give parquet, {others}."
        )
    table.inventory = completed(table.inventory, modality, listing)
    return table


def _open_url(modality: str, url: str, split: str, settings: SourceSettings, streaming: bool) -> Table:
    listing = UrlListing(url)
    is_table = listing.is_single and format_of(url) is not None
    if is_table or RECORD_KINDS[modality].is_text or _holds_tables(modality, listing):
        whole = url if listing.is_single else listing.path("")
        table = open_columns(modality, whole, split, settings, streaming)
        if table is not None:
            table.inventory.source = url
            table.inventory = completed(table.inventory, modality, listing)
            return table
    if RECORD_KINDS[modality].is_text:
        raise ValueError(f"There are no tables at {url}, and files of text are read from this machine only.")
    return open_media(modality, listing, split, settings, url)


def _holds_tables(modality: str, listing: Listing) -> bool:
    """Return whether a folder is a table of columns, not a folder of files that may lie beside a table.

    It is one if it holds tables, and either no files of the modality, or a table with a column for them. Csv, tsv and
    JSON beside files of the modality, or instead of them, may describe files.
    """
    formats = {name: format_of(name) for name in listing.names if not is_sample_file(name, modality)}
    tables = {name for name, kind in formats.items() if kind is not None}
    if len(formats) == len(listing.names):  # no file of the modality
        is_text = RECORD_KINDS[modality].is_text
        return any(is_text or formats[name] in ("parquet", "arrow", "webdataset") for name in tables)
    parquet = [name for name in sorted(tables) if formats[name] == "parquet"]
    others = [name for name in parquet if name.rpartition("/")[2].lower() not in METADATA_NAMES]
    return any(_has_inputs(modality, listing.path(name)) for name in others[:TABLES_LOOKED_AT])


def _has_inputs(modality: str, path: str) -> bool:
    """Return whether a parquet file has a column of inputs of the modality."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            schema = pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowInvalid, OSError):
        return False
    kind, names = RECORD_KINDS[modality], {*schema.names}
    if names & {*kind.columns}:
        return True
    if kind.is_text:
        strings = [field.name for field in schema if "string" in str(field.type)]
        is_single = len(strings) == 1 and strings[0].lower() not in FILE_COLUMNS
        return is_single or any(names >= {*pair} for pair in TEXT_PAIRS)
    if kind.feature is None:
        return False
    return f'"_type": "{kind.feature}"' in (schema.metadata or {}).get(b"huggingface", b"").decode("utf-8", "replace")
