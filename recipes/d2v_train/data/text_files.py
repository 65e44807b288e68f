"""Files of text: which of a folder are read, and as which split.

`.txt` and `.text` hold documents, `.jsonl` and `.ndjson` one object per line, all of them also compressed by gzip,
bzip2 or xz. A file belongs to the split that its name says as a whole: no other file is taken for a part of one.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import zlib
from collections.abc import Container, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.folder_splits import FolderLevels, splits_meant
from d2v_train.data.inventory import SHOWN, Inventory, first_names
from d2v_train.data.json_lines import choose_fields, parse_line, pick_fields
from d2v_train.data.label_columns import encode_labels
from d2v_train.data.listing import FolderListing
from d2v_train.data.rows import JoinedRows, LazySequence, MemoryRows, Rows
from d2v_train.data.tables import SPLIT_ALIASES, SPLIT_NAMES, SourceSettings, Table
from d2v_train.data.text_rows import TextRows
from d2v_train.data.text_source_file import COMPRESSIONS, TextFile, is_plain_text, text_suffix
from d2v_train.support.text import readable_bytes


TRAINING_NAMES = SPLIT_ALIASES["train"]
DOCUMENT_LAYOUTS = {
    "paragraphs": "documents separated by blank lines",
    "lines": "a document a line",
    "files": "a document a file",
}
"""Descriptions of the rules of `SourceSettings.documents`."""
_NAME = re.compile(
    rf"(?P<before>.*[-_. ])?(?P<split>{'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})"
    r"(?P<shard>[-_.]?\d+)?(?P<shards>-of-\d+)?"
)


def open_text_files(
    root: Path,
    split: str,
    settings: SourceSettings,
    suffixes: Sequence[str],
    streaming: bool = False,
    names: Sequence[str] | None = None,
) -> Table | None:
    """Open one split of a text file or a folder of text files; None if there are none.

    What is a document of a plain file says `settings.documents`. In `.jsonl` each line is a string or an object with a
    text field (or the two of a sentence pair) and optionally a label; the same fields are used for the whole file.
    Rows in another encoding, not JSON or without text stay in the table, and are counted as bad when they are read.

    Args:
        root: The file or folder.
        split: The split; see `text_splits`.
        settings: What is a document, the encoding and the fields of objects.
        suffixes: Suffixes of text files.
        streaming: Whether documents are read in place when they are needed, without labels.
        names: Names of the visible files of the folder, if they are known.

    Raises:
        ValueError: If there is no such split or field, or no file can be read.
    """
    inventory = Inventory(str(root))
    if root.is_file():
        folder, splits = root.parent, {"train": [root.name]} if text_suffix(root.name) in suffixes else {}
    else:
        folder = root
        splits = text_splits(FolderListing(root).names if names is None else names, suffixes, inventory)
    if not splits:
        return None
    wanted = splits_meant(split, list(splits), str(root))
    parts = {}
    for name, files in splits.items():
        if streaming and name not in wanted:
            inventory.samples[name] = None
            inventory.used += files
        else:
            files = _usable_files(folder, files, settings, inventory, in_memory=not streaming)
            parts[name] = _part_of(files, settings, inventory, streaming)
            inventory.samples[name] = len(parts[name].values)
    table = _joined([parts[name] for name in wanted])
    inventory.layout = _layout(splits, settings)
    if not len(table.values):
        raise ValueError("\n".join([f"There is no text in {str(root)!r}, split {split!r}.", *inventory.lines()]))
    labels, label_names = table.labels, None
    if not settings.read_labels:
        labels = None
    if labels is not None:
        universe = [label for part in parts.values() for label in part.labels or ()]
        labels, label_names = encode_labels(labels, None, universe, str(root))
    return Table(table.values, labels, table.groups, label_names, inventory=inventory)


def text_splits(names: Iterable[str], suffixes: Sequence[str], inventory: Inventory) -> dict[str, list[str]]:
    """Return the text files of a folder by split; empty if there are none.

    Folders are splits as in `folder_splits`. Otherwise, and beside such folders, a file belongs to the split that its
    name without suffixes names as a whole, such as `test.txt` and `test-00000-of-00002.jsonl`. Other numbers
    (`test_1.txt`) and words before (`wiki.test.txt`) name a split only beside a training file of the same kind
    (`train_1.txt`, `wiki.train.txt`). All other files are training data, except beside folders of splits.

    Args:
        names: Files of the folder, with their sub-folders.
        suffixes: Suffixes of text files.
        inventory: Takes the files that are left out.
    """
    texts = []
    for name in names:
        reason = _reason_to_skip(name, suffixes)
        if reason is None:
            texts.append(name)
        else:
            inventory.leave_out(name, reason)
    levels = FolderLevels.of(texts)
    stems: dict[str, list[str]] = {}
    for name in texts:
        stems.setdefault(posixpath.dirname(name), []).append(_stem(name))
    training = {folder: training_kinds(found) for folder, found in stems.items()}
    splits: dict[str, list[str]] = {}
    for name in texts:
        split = levels.split_of(name) if levels.splits else None
        split = split or split_of_name(_stem(name), training[posixpath.dirname(name)])
        if split is None and levels.splits:
            inventory.leave_out(name, f"it lies beside the folders of the splits ({', '.join(levels.splits)})")
        else:
            splits.setdefault(split or "train", []).append(name)
    return splits


def split_of_name(stem: str, training: Container[tuple[str, bool]] = ()) -> str | None:
    """Return the split that a file name without suffixes, in lower case, names; None if it does not name one.

    Args:
        stem: The name.
        training: Kinds of training files beside it, see `training_kinds`.
    """
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    is_whole = not match["before"] and (match["shards"] if match["shard"] else not match["shards"])
    return match["split"] if is_whole or _kind(match) in training else None


def training_kinds(stems: Iterable[str]) -> set[tuple[str, bool]]:
    """Return the words before the split, and whether a number follows it, in file names that end in a training one."""
    matches = (_NAME.fullmatch(stem) for stem in stems)
    return {_kind(match) for match in matches if match is not None and match["split"] in TRAINING_NAMES}


def _kind(match: re.Match[str]) -> tuple[str, bool]:
    return match["before"] or "", bool(match["shard"])


def _reason_to_skip(name: str, suffixes: Sequence[str]) -> str | None:
    short = posixpath.basename(name)
    if short.upper().startswith("README"):
        return "a README"
    if text_suffix(short) in suffixes:
        return None
    if text_suffix(posixpath.splitext(short)[0]) in suffixes:
        known = ", ".join(COMPRESSIONS)
        return f"compressed in another way than {known}: unpack it, for example with `zstd -d` or `unzip`"
    return f"not a text file by its suffix ({', '.join(suffixes)})"


def _stem(name: str) -> str:
    stem, suffix = posixpath.splitext(posixpath.basename(name).lower())
    return posixpath.splitext(stem)[0] if suffix in COMPRESSIONS else stem


class _Part(NamedTuple):
    values: Rows
    labels: list[Any] | None
    groups: Sequence[str]


def _usable_files(
    folder: Path, names: Iterable[str], settings: SourceSettings, inventory: Inventory, in_memory: bool
) -> list[TextFile]:
    """Return the files that can be read; the others are left out in the inventory."""
    files = []
    for shown in names:
        try:
            file = TextFile(os.path.join(folder, shown), shown, settings.encoding, in_memory)
            problem = file.problem
            file.close()
        except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            problem = f"cannot be read ({type(error).__name__})"
        if problem is None:
            files.append(file)
        else:
            inventory.leave_out(shown, problem)
    return files


def _part_of(files: Sequence[TextFile], settings: SourceSettings, inventory: Inventory, streaming: bool) -> _Part:
    """Return the rows of one split, with their labels and groups, in the order of the files."""
    parts = []
    for in_table, group in groupby(files, lambda file: not (streaming or file.is_plain)):
        if in_table:
            parts += [_json_part(file, settings, inventory) for file in group]
        else:
            rows = TextRows(list(group), settings)
            for file, count in zip(rows.files, rows.counts, strict=True):
                _account(file, count, inventory)
            inventory.notes += _notes(rows, settings)
            parts.append(_Part(rows, None, rows.groups))
    return _joined(parts)


def _joined(parts: Sequence[_Part]) -> _Part:
    if not parts:
        return _Part(MemoryRows([], []), None, [])
    if len(parts) == 1:
        return parts[0]
    labels = None
    if any(part.labels is not None for part in parts):
        labels = [value for part in parts for value in part.labels or [None] * len(part.values)]
    return _Part(JoinedRows([part.values for part in parts]), labels, [name for part in parts for name in part.groups])


def _json_part(file: TextFile, settings: SourceSettings, inventory: Inventory) -> _Part:
    """Return the parsed lines of a file in memory."""
    parsed, numbers = [], []
    for first, last, number in zip(*(field.tolist() for field in file.documents("lines")[:3]), strict=True):
        try:
            parsed.append(parse_line(file.text(first, last)))
        except BadSample as error:
            parsed.append(error)
        numbers.append(number)
    _account(file, len(parsed), inventory)
    choice = choose_fields([value for value in parsed if isinstance(value, dict)], settings, file.shown)
    values, labels, groups = [], [], []
    for value in parsed:
        row = pick_fields(value, choice) if isinstance(value, dict) else {"value": value}
        values.append(row["value"])
        labels.append(row.get("label"))
        groups.append(row.get("group", file.shown))
    names = LazySequence(len(numbers), partial(_line_name, file.shown, numbers))
    has_labels = any(label is not None for label in labels)
    return _Part(MemoryRows(values, names), labels if has_labels else None, groups)


def _line_name(shown: str, numbers: Sequence[int], row: int) -> str:
    return f"{shown}, line {numbers[row]}"


def _account(file: TextFile, count: int, inventory: Inventory) -> None:
    if count:
        inventory.used.append(file.shown)
    else:
        inventory.leave_out(file.shown, "empty")


def _layout(splits: dict[str, list[str]], settings: SourceSettings) -> str:
    are_plain = {is_plain_text(name) for names in splits.values() for name in names}
    plain = f"plain text, {DOCUMENT_LAYOUTS[settings.documents]}"
    words = " and ".join([plain] * (True in are_plain) + ["JSON lines"] * (False in are_plain))
    parts = [f"; {split}: {first_names(names)}" for split, names in splits.items()] if len(splits) > 1 else []
    return "".join([words, *parts])


def _notes(rows: TextRows, settings: SourceSettings) -> list[str]:
    """Return sentences about documents that are read in parts."""
    notes = []
    for shown, parts, size in rows.long_documents():
        note = f"{shown} is {readable_bytes(size)} long, which is read in {parts} parts"
        if settings.documents == "paragraphs":
            note += "; there is no blank line in it: if each line is a document, set documents=lines"
        notes.append(note)
    more = len(notes) - SHOWN
    return notes if more <= 0 else [*notes[:SHOWN], f"{more} more documents are read in parts"]
