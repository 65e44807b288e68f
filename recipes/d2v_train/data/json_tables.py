"""Tables of JSON: .jsonl with an object on each line, and .json with a list of objects or of columns.

The json builder of the `datasets` library is not used: it ends at the first line that is not JSON, and tells no line.
"""

from __future__ import annotations

import json
from typing import Any

from d2v_train.data.delimited import read_text
from d2v_train.data.files import problem_of
from d2v_train.data.json_lines import load_line
from d2v_train.data.memory_table import TablePart
from d2v_train.data.tables import AS_FOUND, SourceSettings


def read_json_table(path: str, settings: SourceSettings = AS_FOUND) -> TablePart:
    """Read a file of JSON.

    A .json file may hold a list of objects, one object of columns (lists of equal lengths, or objects with the same
    keys), one object that holds a single list of objects beside other values, or an object on each line like a .jsonl
    file. Lines end with a line feed. A line, or an element of a list, that is not an object is a row that cannot be
    read.

    Raises:
        ValueError: If the file is not in the encoding of `settings`, or holds something else.
    """
    text = read_text(path, settings.encoding)
    whole = None
    if not path.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson")):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None
        if isinstance(whole, dict):
            whole = _rows_of_object(whole)
    if isinstance(whole, list):
        return _part(path, [(f"element {number}", value) for number, value in enumerate(whole)])
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", load_line(line)))
        except (ValueError, RecursionError) as error:
            rows.append((f"line {number}", error))
    if not any(isinstance(value, dict) for _, value in rows):
        raise ValueError(f"{path} is not a table: expected a list of JSON objects, or an object on each line.")
    return _part(path, rows)


def _rows_of_object(whole: dict[str, Any]) -> list[Any]:
    """Return the rows of a JSON object of columns or with a list of rows, or the object if it is one row itself."""
    lists = {name: value for name, value in whole.items() if isinstance(value, list)}
    tables = [value for value in lists.values() if any(isinstance(item, dict) for item in value)]
    if len(tables) == 1 and (len(lists) == 1 or len(lists) < len(whole)):
        return tables[0]
    if whole and len(lists) == len(whole) and len({len(value) for value in lists.values()}) == 1:
        return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]
    keys = [list(value) for value in whole.values() if isinstance(value, dict)]
    if whole and len(keys) == len(whole) and all(part == keys[0] for part in keys):
        return [{name: whole[name][key] for name in whole} for key in keys[0]]
    return [whole]


def _part(path: str, rows: list[tuple[str, Any]]) -> TablePart:
    names = list(dict.fromkeys(name for _, value in rows if isinstance(value, dict) for name in value))
    problems = {}
    for number, (place, value) in enumerate(rows):
        if not isinstance(value, dict):
            reason = value if isinstance(value, Exception) else f"expected an object, found {type(value).__name__}"
            problems[number] = problem_of(path, reason, place)
    cells = [value if isinstance(value, dict) else {} for _, value in rows]
    return TablePart(path, {name: [row.get(name) for row in cells] for name in names}, len(rows), problems)
