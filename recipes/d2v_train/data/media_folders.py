"""Plain folders of images or recordings.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.inventory import shown_in, visible_files
from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.label_columns import encode_labels
from d2v_train.data.rows import FileRows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    ColumnNotFoundError,
    SourceSettings,
    Table,
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
    visible = visible_files(root)
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
