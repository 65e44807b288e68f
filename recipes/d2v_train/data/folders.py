"""Plain folders of images, recordings or text files.

Images and audio follow the layout of `imagefolder` and `audiofolder` of the `datasets` library, read here without it:
its audio builder requires torchcodec even to list files.

    [split/] [class/ ...] name.suffix          split: train, validation, test, ...; the class is the first folder
    [split/] metadata.csv | metadata.jsonl     column `file_name`, relative to the metadata file, and further columns
    [split/] speaker / chapter / *.trans.txt   LibriSpeech as published, if transcripts are requested

A split with metadata consists of the files listed there; a listed file that does not exist is counted as missing.
Hidden files and folders are ignored.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.rows import FileRows, MemoryRows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    ColumnNotFoundError,
    SourceSettings,
    Table,
    UnclearColumnError,
    encode_labels,
    find_text_columns,
    pick_split,
    read_lengths,
    transcript_column,
    usual_column,
)


METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


def open_media_folder(modality: str, root: Path, split: str, settings: SourceSettings) -> Table:
    """Open one split of a folder of images or recordings.

    Raises:
        ValueError: If there are no such files, or no such split or column, or the metadata is malformed.
    """
    wanted = [settings.column] if isinstance(settings.column, str) else list(settings.column or ())
    kind = RECORD_KINDS[modality]
    unknown = [name for name in wanted if name not in (*kind.columns, "file_name")]
    if unknown:
        raise ColumnNotFoundError(
            f"There is no column {unknown[0]!r} in {str(root)!r}: the inputs are the files of the folder. Leave the "
            "column out."
        )
    visible = _visible_files(root)
    files = [path for path in visible if path.suffix.lower() in kind.suffixes]
    metadata = [path for path in visible if path.name in METADATA_NAMES]
    if not files and not metadata:
        raise ValueError(
            f"There are no files of modality {modality} in {str(root)!r}. Expected parquet, or files that end in "
            f"{', '.join(kind.suffixes)}."
        )
    splits: dict[str, list[dict[str, Any]]] = {}
    for path in metadata:
        splits.setdefault(_split_of(path.relative_to(root)), []).extend(_metadata_rows(path))
    if kind.transcripts is not None and settings.text_column is not None:
        chapters = [path for path in visible if path.name.endswith(kind.transcripts)]
        for path in chapters:
            # The folder above speaker and chapter names the split, such as train-clean-100.
            above = path.relative_to(root).parts[:-3]
            splits.setdefault(above[-1] if above else "train", []).extend(_librispeech_rows(path, kind.suffixes))
        files = [] if chapters else files
    described = set(splits)
    for path in files:
        steps = path.relative_to(root).parts
        name = _split_of(path.relative_to(root))
        if name not in described:
            folders = steps[1:-1] if steps[0].lower() in SPLIT_NAMES and len(steps) > 1 else steps[:-1]
            label = {"label": folders[0]} if folders else {}
            splits.setdefault(name, []).append({"file": path} | label)

    rows = splits[pick_split(split, list(splits), str(root))]
    existing = list(dict.fromkeys(key for row in rows for key in row if key != "file"))
    label = usual_column(existing, settings.label_column, LABEL_COLUMNS, "label", str(root))
    group = usual_column(existing, settings.group_column, GROUP_COLUMNS, "group", str(root))
    text = transcript_column(existing, settings.text_column, str(root))
    length = usual_column(existing, settings.length_column, (), "length", str(root))
    universe = {row.get(label) for part in splits.values() for row in part}
    labels = label_names = None
    # A single folder is a location, not a class.
    if label is not None and len(universe - {None}) > 1:
        labels, label_names = encode_labels([row.get(label) for row in rows], None, universe, str(root))
    groups = None if group is None else [str(row.get(group)) for row in rows]
    transcripts = None if text is None else [str(row.get(text) or "") for row in rows]
    values = [row["file"] for row in rows]
    lengths = None
    if length is not None:
        lengths = read_lengths([row.get(length) for row in rows], f"column {length!r} of {root}")
    names = [shown_in(path, root) for path in values]
    return Table(FileRows(values, names), labels, groups, label_names, transcripts, lengths)


def open_text_files(root: Path, split: str, settings: SourceSettings, suffixes: Sequence[str]) -> Table | None:
    """Open one split of a text file or a folder of text files; None if there are none.

    In `.txt`, blank lines separate documents. In `.jsonl` each line is a string or an object with a text field (or the
    two of a sentence pair) and optionally a label; the same fields are used for the whole file. A file belongs to the
    split that its name, or a folder above it, starts with; else to "train". Rows that are not UTF-8, not JSON or
    without text stay in the table, and are counted as bad when they are read.

    Raises:
        ValueError: If there is no such split or field.
    """
    splits = text_files_by_split(root, suffixes)
    if not splits:
        return None
    parsed = {
        name: [row for path in paths for row in _text_rows(path, root, settings)] for name, paths in splits.items()
    }
    rows = parsed[pick_split(split, list(parsed), str(root))]
    labels, label_names = [row["label"] for row in rows], None
    if all(label is None for label in labels):
        labels = None
    else:
        universe = {row["label"] for part in parsed.values() for row in part}
        labels, label_names = encode_labels(labels, None, universe, str(root))
    groups = [row["group"] for row in rows]
    values = MemoryRows([row["value"] for row in rows], [row["name"] for row in rows])
    return Table(values, labels, groups, label_names)


def text_files_by_split(root: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """Return the text files of a folder, or the file itself, by split; empty if there are none."""
    splits: dict[str, list[Path]] = {}
    for path in [root] if root.is_file() else _visible_files(root):
        if path.suffix.lower() in suffixes and not path.name.startswith("README"):
            # Inside the source only: a parent folder that happens to be called `test` does not name a split.
            steps = () if path == root else path.relative_to(root).parts
            words = (re.split(r"[^a-z]", step.lower())[0] for step in steps)
            splits.setdefault(next((word for word in words if word in SPLIT_NAMES), "train"), []).append(path)
    return splits


def _visible_files(root: Path) -> list[Path]:
    """Return the files below `root` in sorted order, without hidden ones and those in hidden folders."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(step.startswith(".") for step in path.relative_to(root).parts))


def shown_in(path: Path, root: Path) -> str:
    """Return the name of a file of a source for reports."""
    if path == root:
        return path.name
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _split_of(relative: Path) -> str:
    first = relative.parts[0].lower()
    return first if len(relative.parts) > 1 and first in SPLIT_NAMES else "train"


def _metadata_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metadata file, with "file" (a path) instead of `file_name`."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = (
                list(csv.DictReader(file))
                if path.suffix == ".csv"
                else [json.loads(line) for line in file if line.strip()]
            )
        except (ValueError, csv.Error) as error:
            kind = path.suffix.lstrip(".").upper()
            raise ValueError(f"The metadata file {path} is not {kind} in UTF-8: {error}.") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not row.get("file_name"):
            raise ValueError(f"Row {number + 1} of {path} has no `file_name`. Name the file that the row describes.")
    others = ({key: value for key, value in row.items() if key not in ("file_name", None)} for row in rows)
    return [{"file": path.parent / row["file_name"]} | other for row, other in zip(rows, others, strict=True)]


def _librispeech_rows(path: Path, suffixes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of one chapter; each line of its file holds the name of a recording and the transcript."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, text = line.strip().partition(" ")
        if name:
            beside = (path.with_name(name + suffix) for suffix in (".flac", *suffixes))
            file = next((file for file in beside if file.is_file()), path.with_name(f"{name}.flac"))
            rows.append({"file": file, "text": text, "speaker": name.partition("-")[0]})
    return rows


def _text_rows(path: Path, root: Path, settings: SourceSettings) -> list[dict[str, Any]]:
    encoded = path.read_bytes().replace(b"\r\n", b"\n").removeprefix(b"\xef\xbb\xbf")
    shown = shown_in(path, root)
    if path.suffix.lower() == ".txt":
        documents = re.split(rb"\n[ \t]*(?:\n[ \t]*)+", encoded.strip())
        return [
            {"value": document, "name": f"{shown}, document {number}", "label": None, "group": shown}
            for number, document in enumerate(documents, start=1)
        ]
    lines = {number: line for number, line in enumerate(encoded.split(b"\n"), start=1) if line.strip()}
    parsed = {number: parse_line(line) for number, line in lines.items()}
    choice = choose_fields([value for value in parsed.values() if isinstance(value, dict)], settings, shown)
    rows = []
    for number, value in parsed.items():
        row = {"value": value, "name": f"{shown}, line {number}", "label": None, "group": shown}
        rows.append(row | pick_fields(value, choice) if isinstance(value, dict) else row)
    return rows


def parse_line(line: bytes) -> Any:
    """Return the content of one line of JSON; for an unreadable one, its bytes or a `BadSample` to raise later."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return line
    except (ValueError, RecursionError) as error:
        return BadSample("unreadable", f"the line is not JSON: {error}")


def choose_fields(objects: list[dict[str, Any]], settings: SourceSettings, name: str) -> dict[str, Any]:
    """Return the fields of a file that hold the text (one or two), the label and the group.

    They are chosen from all objects together, so that an object without text, or with null, is only a bad record.

    Raises:
        UnclearColumnError: If there are fields and the one with the text cannot be determined.
    """
    existing = list(dict.fromkeys(key for fields in objects for key in fields))
    wanted = [settings.column] if isinstance(settings.column, str) else settings.column
    if not wanted:
        texts = {key for fields in objects for key, value in fields.items() if isinstance(value, str)}
        wanted = find_text_columns(existing, [key for key in existing if key in texts])
    if wanted is None and existing:
        raise UnclearColumnError(f"It is unclear which field of {name} holds the text; it has: {', '.join(existing)}.")
    label = settings.label_column or next((key for key in LABEL_COLUMNS if key in existing), None)
    group = settings.group_column or next((key for key in GROUP_COLUMNS if key in existing), None)
    return {"text": wanted or ["text"], "label": label, "group": group}


def pick_fields(fields: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    """Return value, label and group of one object, those that it has."""
    found = tuple(fields.get(key) for key in choice["text"])
    picked: dict[str, Any] = {"value": found[0] if len(found) == 1 else found}
    if choice["label"] in fields:
        picked["label"] = fields[choice["label"]]
    if choice["group"] in fields:
        picked["group"] = str(fields[choice["group"]])
    return picked
