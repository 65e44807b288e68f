"""Columns of labels as class ids, scores, or classes of which a sample has several.

A label is missing where the cell is empty, null or NaN, and where it is -1: hidden test labels are written so. Every
reader has this rule. Words such as NA, None and null are names like any other.
"""

from __future__ import annotations

import decimal
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from d2v_train.data.rows import LazySequence
from d2v_train.data.tables import is_missing


logger = logging.getLogger(__name__)

MAX_LABEL_BYTES = 2**32
"""Size of the labels of samples with several classes, above which a column is refused."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
# Unlike float(), without the words nan and infinity, and without leading zeros: 007 is a name.
_NUMBER = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def encode_labels(
    raw: Sequence[Any], names: Sequence[str] | None, universe: Iterable[Any], where: str, untyped: bool = False
) -> tuple[np.ndarray, list[str] | None]:
    """Return labels as an array, and the class names.

    Args:
        raw: One label per sample: a whole number, a boolean, a score, a name, or a list of whole numbers, of names or
            of zeros and ones for each class.
        names: Class names of whole numbers, if known.
        universe: Labels of all splits. Names become classes in the sorted order of these, so that all splits agree.
        where: Column and source, for the error.
        untyped: Whether all labels are text, as in csv: whole numbers, numbers and booleans are then recognised if all
            labels are such.

    Returns:
        Class ids (N,) int64 with -1 for missing labels; or scores (N,) float32 with NaN; or, for lists, (N, L) float32
        of zeros and ones, with rows of NaN. The class names, sorted; None for scores, and for whole numbers without
        known names.

    Raises:
        ValueError: If the labels are anything else, or of several types.
    """
    universe = list(universe)
    if set(map(type, raw)) == {str}:  # of millions of names, few are different
        place = {word: number for number, word in enumerate(dict.fromkeys(raw))}
        if len(place) < len(raw):
            words = list(place)
            rows = LazySequence(len(words), lambda number: raw.index(words[number]))
            encoded, found = _encode(words, names, universe, where, untyped, rows)
            return encoded[np.fromiter(map(place.__getitem__, raw), np.int64, len(raw))], found
    return _encode(raw, names, universe, where, untyped, range(len(raw)))


def _encode(
    raw: Sequence[Any],
    names: Sequence[str] | None,
    universe: list[Any],
    where: str,
    untyped: bool,
    rows: Sequence[int],
) -> tuple[np.ndarray, list[str] | None]:
    """Return labels as an array, and the class names; arguments as of `encode_labels`, and the row of each label."""
    labels, others = _normalised(raw), _normalised(universe)
    if untyped:
        labels, others = _recognise(labels, others, where, rows)
    kinds = _types(labels, others)
    if kinds in ({int, str}, {int, list}):  # hidden test labels of classes with names
        labels, others = ([None if value == -1 else value for value in part] for part in (labels, others))
        kinds = _types(labels, others)
    if kinds == {list}:
        return _several(labels, others, names, where)
    if kinds == {str}:
        found = sorted({value for value in (*labels, *others) if value is not None}, key=_order)
        code = {name: number for number, name in enumerate(found)}
        return np.array([-1 if value is None else code[value] for value in labels], dtype=np.int64), found
    if float in kinds and kinds <= {int, float} and _are_ids([*labels, *others], kinds):
        kinds = {int}
    if kinds <= {int, bool}:
        _check_ids(labels, where, rows)
        ids = np.array([-1 if value is None else int(value) for value in labels], dtype=np.int64)
        return ids, None if names is None else list(names)
    if kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in labels], dtype=np.float32), None
    raise ValueError(
        f"The labels of {where} are of several types, or of none that is a label: {_examples(labels, others, rows)}. "
        "Expected whole numbers, scores, names, or lists of whole numbers or of names. Make them one type, or name "
        "another label column."
    )


def recognise(labels: Sequence[Any], where: str) -> list[Any]:
    """Return labels that are text as whole numbers, numbers or booleans if all are such, as names otherwise."""
    return _recognise(_normalised(labels), [], where, range(len(labels)))[0]


def _types(*parts: Sequence[Any]) -> set[type]:
    """Return the types of the labels that are not missing."""
    return {kind for part in parts for kind in set(map(type, part))} - {type(None)}


def _normalised(values: Sequence[Any]) -> Sequence[Any]:
    """Return all labels as `_normal` returns each."""
    kinds = _types(values)
    if kinds <= {int, bool}:
        return values
    if kinds == {str}:  # of millions of labels, few are different
        known = {value: _normal(value) for value in set(values)}
        return [known[value] for value in values]
    return [_normal(value) for value in values]


def _normal(value: Any) -> Any:
    """Return a label as int, bool, float, str, list or None; anything else as it is."""
    kind = type(value)
    if kind is int or kind is bool or value is None:
        return value
    if kind is str:
        value = value.strip()
        return None if not value or value == "-1" else value
    if isinstance(value, bytes):
        return _normal(value.decode("utf-8", "replace"))
    if isinstance(value, np.generic | np.ndarray):
        return _normal(value.tolist())
    if isinstance(value, decimal.Decimal):
        value = float(value)
        return int(value) if value.is_integer() else _normal(value)
    if isinstance(value, list | tuple):
        found = [item for item in map(_normal, value) if item is not None]
        return found if found or not len(value) else None
    return None if is_missing(value) else value


def _recognise(labels: list[Any], others: list[Any], where: str, rows: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Return labels that are text as whole numbers, numbers or booleans, if all of them are such."""
    words = {value for part in (labels, others) if str in _types(part) for value in part if isinstance(value, str)}
    whole = {word for word in words if _WHOLE.fullmatch(word)}
    if words and whole == words:
        return _mapped(labels, int), _mapped(others, int)
    if words and {word.lower() for word in words} <= {"true", "false"}:
        return _mapped(labels, _truth), _mapped(others, _truth)
    numbers = {word for word in words if _NUMBER.fullmatch(word)}
    if words and numbers == words:
        return _mapped(labels, float), _mapped(others, float)
    if numbers:
        number, word = next(
            (
                (number, value)
                for number, value in enumerate(labels)
                if isinstance(value, str) and value not in numbers
            ),
            (None, min(words - numbers)),
        )
        place = "another split" if number is None else f"row {rows[number]}"
        if numbers - whole:
            raise ValueError(
                f"The labels of {where} are numbers, but that of {place} is the word {word!r}. Leave the cell empty "
                "if the label is missing."
            )
        logger.warning(
            "The labels of %s are whole numbers and words (%s: %r); all are read as names of classes. Leave the cell "
            "empty if the label is missing.",
            where,
            place,
            word,
        )
    return labels, others


def _mapped(values: Sequence[Any], make: Any) -> list[Any]:
    """Return the values with words made into something else."""
    known = {word: make(word) for word in {value for value in values if isinstance(value, str)}}
    return [known[value] if isinstance(value, str) else value for value in values]


def _truth(word: str) -> bool:
    return word.lower() == "true"


def _are_ids(values: list[Any], kinds: set[type]) -> bool:
    """Return whether numbers are class ids that became floats only because some are missing, as pandas writes them."""
    some_missing = any(value is None for value in values)
    return (some_missing or int in kinds) and all(value is None or float(value).is_integer() for value in values)


def _check_ids(labels: Sequence[Any], where: str, rows: Sequence[int]) -> None:
    """Check that class ids fit into 64 bits."""
    known = {value for value in labels if value is not None}
    wrong = next((value for value in known if not -(2**63) <= value < 2**63), None)
    if wrong is not None:
        raise ValueError(
            f"The label {wrong!r} in row {rows[list(labels).index(wrong)]} of {where} is too large for a class id. "
            "Number the classes from 0, or write their names."
        )


def _order(name: str) -> tuple[int, int, str]:
    """Return the sort key of a class name: whole numbers by value before words by spelling."""
    return (0, int(name), name) if _WHOLE.fullmatch(name) and len(name) < 20 else (1, 0, name)


def _several(
    labels: list[Any], others: list[Any], names: Sequence[str] | None, where: str
) -> tuple[np.ndarray, list[str]]:
    """Return lists of labels as rows of zeros and ones, and the names of the classes."""
    lists = [value for value in (*labels, *others) if value is not None]
    kinds = {type(item) for value in lists for item in value}
    if not (kinds <= {str} or kinds <= {int, float, bool}):
        raise ValueError(
            f"The lists of labels of {where} hold several types: {_examples(labels, others)}. Expected only whole "
            "numbers, or only names."
        )
    sizes = {len(value) for value in lists}
    # Lists of zeros and ones of one length are flags of classes, not ids, which would repeat; a single id is an id.
    flags = len(sizes) == 1 and sizes != {0} and (sizes != {1} or int not in kinds)
    flags = flags and str not in kinds and all(item in (0, 1) for value in lists for item in value)
    if flags and names is None:
        found = [str(number) for number in range(max(sizes))]
        encoded = [np.nan if value is None else value for value in labels]
        return np.stack([np.full(len(found), row, np.float32) for row in encoded]), found
    if not kinds <= {int, str}:
        raise ValueError(
            f"The lists of labels of {where} hold numbers that are not class ids: {_examples(labels, others)}. Give "
            "whole numbers, names, or a zero or one for each class."
        )
    if kinds == {str} or names is None:
        items = {item for value in lists for item in value if item != -1}
        ordered = sorted(items, key=_order if kinds == {str} else None)
        found, code = [str(item) for item in ordered], {item: number for number, item in enumerate(ordered)}
    else:
        found, code = list(names), {number: number for number in range(len(names))}
    if 4 * len(labels) * len(found) > MAX_LABEL_BYTES:
        raise ValueError(f"The lists of labels of {where} hold {len(found):,} classes, too many for zeros and ones.")
    encoded = np.zeros((len(labels), len(found)), dtype=np.float32)
    for row, value in enumerate(labels):
        if value is None or value == [-1]:
            encoded[row] = np.nan
            continue
        for item in value:
            if item not in code:
                raise ValueError(f"The label {item!r} in row {row} of {where} is not one of {len(found)} classes.")
            encoded[row, code[item]] = 1
    return encoded, found


def _examples(labels: list[Any], others: list[Any], rows: Sequence[int] | None = None) -> str:
    """Return one label of each type, with its row."""
    found: dict[str, str] = {}
    for place, values in (("row {}", labels), ("another split", others)):
        for number, value in enumerate(values):
            kinds = {type(value).__name__}
            if isinstance(value, list):
                kinds = {f"list of {type(item).__name__}" for item in value} or {"empty list"}
            for kind in kinds if value is not None else ():
                if kind not in found:
                    shown = repr(value)
                    shown = shown[:40] + "..." if len(shown) > 40 else shown
                    row = number if rows is None or values is others else rows[number]
                    found[kind] = f"{shown} ({kind}) in {place.format(row)}"
    return ", ".join(found.values())
