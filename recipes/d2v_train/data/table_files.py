"""Which files of a source are tables of columns, and of which split."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from d2v_train.data.files import is_url, list_url
from d2v_train.data.inventory import shown_in
from d2v_train.data.listing import visible_files
from d2v_train.data.tables import SPLIT_NAMES


logger = logging.getLogger(__name__)

FORMATS = {
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather"),
    "webdataset": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"),
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tab", ".tsv.gz"),
    "json": (".json", ".json.gz"),
}
"""Suffixes of each format. Of a split in several formats, the first one is read."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
SAVED = {"dataset_dict.json", "state.json"}
"""Files that mark a folder written by `save_to_disk`."""


@dataclass
class TableFiles:
    """The tables of a source.

    Attributes:
        splits: Paths or URLs by split; those of a split have one format.
        left_out: Names of other files by reason.
    """

    splits: dict[str, list[str]]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def format_of(path: str | Path) -> str | None:
    """Return the format of a file according to its name, or None if it is not a table."""
    name = str(path).rpartition("/")[2].lower()
    if is_url(str(path)):
        name = name.partition("?")[0]
    return next((kind for kind, suffixes in FORMATS.items() if name.endswith(suffixes)), None)


def is_saved(path: Path) -> bool:
    """Return whether a folder was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return path.is_dir() and any((path / name).is_file() for name in SAVED)


def find_tables(source: str | Path) -> TableFiles | None:
    """Return the tables of a local file or folder, or of a URL; None if there are none.

    The split of a file is told by the folders between it and the source, or by a word of its name, such as `train` in
    train-00000-of-00003.parquet. If no file tells a split, all are training data. Hidden files and folders do not
    count.

    Raises:
        ValueError: If a folder holds several data sets.
        FileNotFoundError: If there is nothing at a URL.
    """
    if is_url(source):
        files = list_url(str(source))
    elif Path(source).is_file():
        files = [(str(source), "")]
    else:
        if is_saved(Path(source)):
            return _saved_tables(Path(source))
        files = [(str(path), shown_in(path, Path(source))) for path in visible_files(Path(source))]
    kinds = {path: format_of(path) for path, _ in files}
    if len(files) == 1 and files[0][1] == "":
        return TableFiles({"train": [files[0][0]]}) if kinds[files[0][0]] else None
    tables = [(path, shown) for path, shown in files if kinds[path] is not None]
    if not tables:
        return None
    _check_single(str(source), [shown for _, shown in tables])
    found = TableFiles({})
    others = [shown for path, shown in files if kinds[path] is None]
    if others:
        found.left_out["not a table"] = others
    splits = {path: split_of(shown) for path, shown in tables}
    told = any(splits.values())
    for split in dict.fromkeys(splits.values()):
        members = [(path, shown) for path, shown in tables if splits[path] == split]
        if told and split is None:
            found.left_out["other files name their split, these do not"] = [shown for _, shown in members]
            continue
        name = split or "train"
        kind = next(kind for kind in FORMATS if any(kinds[path] == kind for path, _ in members))
        found.splits[name] = [path for path, _ in members if kinds[path] == kind]
        others = [shown for path, shown in members if kinds[path] != kind]
        if others:
            found.left_out[f"the split {name!r} is read from its files of format {kind}"] = others
    return found


def split_of(shown: str) -> str | None:
    """Return the split that the folders of a file, or else its name, tell; None if they do not."""
    *folders, name = shown.lower().split("/")
    for folder in folders:
        if folder in SPLIT_NAMES:
            return folder
    words = re.split(r"[^a-z]+", name.partition(".")[0])
    return next((word for word in words if word in SPLIT_NAMES), None)


def _check_single(source: str, names: Sequence[str]) -> None:
    """Check that the files of a folder do not belong to several data sets, one in each sub-folder."""
    if any("/" not in name for name in names):
        return
    folders = Counter(name.partition("/")[0] for name in names)
    if all(folder.lower() in {"data", *SPLIT_NAMES} or "=" in folder for folder in folders):
        return
    nested = sorted(folders)
    raise ValueError(
        f"The folder {source!r} holds several datasets: {', '.join(nested)}. Name one of them, such as "
        f"{source.rstrip('/') + '/' + nested[0]!r}."
    )


def _saved_tables(folder: Path) -> TableFiles:
    """Return the Arrow files that `save_to_disk` wrote, in their order."""
    parts = {"train": folder}
    if (folder / "dataset_dict.json").is_file():
        parts = {path.name: path for path in sorted(folder.iterdir()) if (path / "state.json").is_file()}
    found = TableFiles({})
    for split, part in parts.items():
        try:
            listed = json.loads((part / "state.json").read_text(encoding="utf-8"))["_data_files"]
            files = [str(part / entry["filename"]) for entry in listed]
        except (OSError, ValueError, KeyError, TypeError):
            files = sorted(str(path) for path in part.glob("*.arrow"))
            logger.warning("%s cannot be read; the .arrow files beside it are taken by name.", part / "state.json")
        found.splits[split] = files
    return found
