"""Columns of labels as class ids or scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def encode_labels(
    raw: Sequence[Any], names: list[str] | None, universe: Iterable[Any], where: str
) -> tuple[np.ndarray, list[str] | None]:
    """Return labels as int64, or float32 for scores, and the class names.

    Args:
        raw: Whole numbers, scores or names; None is a missing label and becomes -1 (NaN among scores).
        names: Class names of whole numbers, if known.
        universe: Labels of all splits. Names become classes in the sorted order of these, so that all splits agree.
        where: Column and source, for the error.

    Raises:
        ValueError: If the labels are anything else.
    """
    kinds = {type(value) for value in raw if value is not None}
    if kinds <= {int, bool}:
        return np.array([-1 if value is None else int(value) for value in raw], dtype=np.int64), names
    if kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in raw], dtype=np.float32), None
    if kinds == {str}:
        names = sorted({str(value) for value in universe if value is not None})
        code = {name: number for number, name in enumerate(names)}
        return np.array([-1 if value is None else code[value] for value in raw], dtype=np.int64), names
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"The labels of {where} are of type {found}; expected whole numbers, scores or names.")
