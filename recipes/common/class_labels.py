"""Class labels of a data set as class ids of a model, told by their names.

Legend: L classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recipes.common.datasets import RawDataset


NO_LABEL = -100
"""Class id of what is left out of losses and metrics."""


class ClassTarget:
    """Class id of a record, by the names of its class where the data has names.

    Args:
        raw: labelled samples.
        names: names of the L classes of the model; a name's place is its id.
        skip_bad: give broken samples `NO_LABEL`, so that what stands in for them is not counted twice.

    Raises:
        ValueError: for labels that are no classes of the model; the message names a sample.
    """

    def __init__(self, raw: RawDataset, names: Sequence[str], skip_bad: bool = False) -> None:
        own = {label: str(label) for label in np.unique(raw.labels).tolist()}
        if raw.label_names is not None:
            own |= dict(enumerate(raw.label_names))
        place = {name: number for number, name in enumerate(names)}
        self.raw, self.skip_bad = raw, skip_bad
        self.ids = {label: place.get(name) for label, name in own.items()}
        for label in np.unique(raw.labels).tolist():
            if self.ids[label] is None:
                sample = raw.name_of(int(np.flatnonzero(raw.labels == label)[0]))
                shown = ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
                raise ValueError(
                    f"The label of {sample} is {own[label]!r}, which is none of the {len(names)} classes of the "
                    f"model: {shown}."
                )

    def __call__(self, record: dict[str, Any]) -> int:
        if self.skip_bad and self.raw.bad.is_bad(record["id"]):
            return NO_LABEL
        return self.ids[record["label"]]


def labelled(raw: RawDataset, name: str) -> RawDataset:
    """Checks that a data set has class labels.

    Raises:
        ValueError: if it has none, or numbers in their place.
    """
    if raw.labels is None or (raw.labels.dtype.kind == "i" and (raw.labels < 0).all()):
        raise ValueError(
            f"The {name} data have no labels. Give one folder per class, a metadata.csv or parquet with a column "
            "`label`, or name the column with --label_column_name."
        )
    if raw.labels.dtype.kind != "i":
        raise ValueError(f"The labels of the {name} data are real numbers; a classification takes classes.")
    return raw


def class_names(raw: RawDataset) -> list[str]:
    """Names of the L classes of a labelled data set; the numbers that occur where they have no names."""
    if raw.label_names is not None:
        return list(raw.label_names)
    return [str(number) for number in np.unique(raw.labels[raw.labels >= 0])]
