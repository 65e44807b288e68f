"""Lines of JSON, each a string or an object: their content, and which fields hold text, label and group."""

from __future__ import annotations

import json
from typing import Any

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SourceSettings,
    UnclearColumnError,
    find_text_columns,
)


_scan = json.JSONDecoder().scan_once


def load_line(line: str) -> Any:
    """Return the content of one line of JSON, as `json.loads` does but in half of the time.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    try:
        value, end = _scan(line, 0)
        if end == len(line):
            return value
    except (StopIteration, ValueError):
        pass
    return json.loads(line)  # for white space around the value, and for its errors


def parse_line(line: str) -> Any:
    """Return the content of one line of JSON, or a `BadSample` to raise later."""
    try:
        return load_line(line)
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
