"""Files of text: `.txt` with documents, `.jsonl` with one object per line, read into memory."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.inventory import shown_in, visible_files
from d2v_train.data.label_columns import encode_labels
from d2v_train.data.rows import MemoryRows
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_NAMES,
    SourceSettings,
    Table,
    UnclearColumnError,
    find_text_columns,
    pick_split,
)


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
    for path in [root] if root.is_file() else visible_files(root):
        if path.suffix.lower() in suffixes and not path.name.startswith("README"):
            # Inside the source only: a parent folder that happens to be called `test` does not name a split.
            steps = () if path == root else path.relative_to(root).parts
            words = (re.split(r"[^a-z]", step.lower())[0] for step in steps)
            splits.setdefault(next((word for word in words if word in SPLIT_NAMES), "train"), []).append(path)
    return splits


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
