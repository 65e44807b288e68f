"""Class labels of a data set as class ids of a model, matched by class name.

Legend: L classes.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from d2v_train.data.labels import missing_labels
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import MULTI_LABEL, SINGLE_LABEL


logger = logging.getLogger(__name__)

NO_LABEL = -100
"""Class id, or flag of every class, of samples that losses and metrics ignore."""


class ClassTarget:
    """Map a record to its class id, by class name if the data has class names.

    Labels without names are matched with the class names of the model if those are integers, otherwise with its ids.

    Args:
        raw: Labelled samples.
        names: Names of the L classes of the model, in the order of their ids.
        part: Name of the data in messages.
        skip_bad: Whether broken samples get `NO_LABEL`, so that their replacements are not counted twice.

    Attributes:
        ids: Class id by label.

    Raises:
        ValueError: If a label is not a class of the model; the message names a sample.
    """

    def __init__(self, raw: RawDataset, names: Sequence[str], part: str = "training", skip_bad: bool = False) -> None:
        if raw.labels.ndim > 1:
            raise ValueError(
                f"The samples of the {part} data have several classes each, but the model assigns one. Give "
                f"--problem_type {MULTI_LABEL} in training."
            )
        if raw.labels.dtype.kind != "i":
            raise ValueError(f"The labels of the {part} data are scores, but the model has classes.")
        own = dict(enumerate(names if raw.label_names is None else raw.label_names))
        if raw.label_names is None and all(re.fullmatch(r"-?\d+", name) for name in names):
            own = {int(name): name for name in names}
        place = {name: number for number, name in enumerate(names)}
        self.raw, self.skip_bad = raw, skip_bad
        self.ids = {label: place[name] for label, name in own.items() if name in place}
        if part.startswith("test"):  # its unlabelled samples are predicted too
            self.ids[-1] = NO_LABEL
        wrong = [label for label in np.unique(raw.labels).tolist() if label not in self.ids]
        if wrong:
            sample = raw.name_of(int(np.flatnonzero(raw.labels == wrong[0])[0]))
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            missing = " -1 marks a missing label." if wrong[0] == -1 else ""
            raise ValueError(
                f"The label of {sample} of the {part} data is {own.get(wrong[0], wrong[0])!r}, which is not one of "
                f"the {len(names)} classes of the model: {shown}.{missing} Check the label column and the task."
            )

    def __call__(self, record: dict[str, Any]) -> int:
        if self.skip_bad and self.raw.bad.is_bad(record["id"]):
            return NO_LABEL
        return self.ids[record["label"]]


class MultiLabelTarget:
    """Map a record to the flags of the classes of a model, (L,) float32, by class name.

    Samples with one class, as in data for `ClassTarget`, have one flag.

    Args:
        raw, names, part, skip_bad: As for `ClassTarget`; flags of skipped samples are `NO_LABEL`.

    Attributes:
        places: Place in the model of each class of the data, -1 for those that the model lacks.

    Raises:
        ValueError: If a sample has a class that the model lacks; the message names it.
    """

    def __init__(self, raw: RawDataset, names: Sequence[str], part: str = "training", skip_bad: bool = False) -> None:
        self.raw, self.size, self.skip_bad = raw, len(names), skip_bad
        self.single = ClassTarget(raw, names, part, skip_bad) if raw.labels.ndim == 1 else None
        if self.single is not None:
            return
        own = class_names(raw)
        place = {name: number for number, name in enumerate(names)}
        self.places = np.array([place.get(name, -1) for name in own])
        strange = np.argwhere((raw.labels > 0) & (self.places < 0))
        if len(strange):
            sample, number = strange[0].tolist()
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ValueError(
                f"{raw.name_of(sample)} of the {part} data has the class {own[number]!r}, which is not one of the "
                f"{len(names)} classes of the model: {shown}. Check the label column."
            )

    def flags(self, label: Any) -> np.ndarray:
        """Return the flags of a label of the data."""
        flags = np.zeros(self.size, dtype=np.float32)
        if self.single is not None:
            number = self.single.ids[label]
            flags[number if number != NO_LABEL else slice(None)] = 1 if number != NO_LABEL else NO_LABEL
            return flags
        if np.isnan(label).any():
            return np.full(self.size, NO_LABEL, dtype=np.float32)
        known = self.places >= 0
        flags[self.places[known]] = label[known]
        return flags

    def __call__(self, record: dict[str, Any]) -> np.ndarray:
        if self.skip_bad and self.raw.bad.is_bad(record["id"]):
            return np.full(self.size, NO_LABEL, dtype=np.float32)
        return self.flags(record["label"])


def class_target(
    raw: RawDataset, names: Sequence[str], part: str, skip_bad: bool = False, multi_label: bool = False
) -> Callable[[dict[str, Any]], Any]:
    """Return `ClassTarget` or `MultiLabelTarget`, or `no_label` for samples without labels, such as test sets."""
    kind = MultiLabelTarget if multi_label else ClassTarget
    return kind(raw, names, part, skip_bad) if is_labelled(raw) else no_label


def decide_multi_label(problem_type: str | None, config: Any, training: RawDataset | None) -> bool:
    """Return whether samples have several classes each: by --problem_type, the training labels, or the checkpoint.

    Raises:
        ValueError: If the training data has several classes each where one is asked for.
    """
    several = training is not None and training.labels is not None and training.labels.ndim > 1
    if problem_type == SINGLE_LABEL and several:
        raise ValueError(
            f"--problem_type is {problem_type}, but the samples of the training data have several classes each. Give "
            f"{MULTI_LABEL}, or name another --label_column."
        )
    if problem_type is not None:
        return problem_type == MULTI_LABEL
    return config.problem_type == MULTI_LABEL if training is None else several


def no_label(record: dict[str, Any]) -> None:
    """Return None, the label of a sample without a known label."""


def is_labelled(raw: RawDataset) -> bool:
    """Return whether a data set has labels; test sets often have -1 instead."""
    return raw.labels is not None and not missing_labels(raw).all()


def as_classes(raw: RawDataset) -> RawDataset:
    """Return a data set whose real labels are class ids if all are whole numbers, as in a table with empty cells."""
    labels = raw.table.labels
    if labels is None or labels.dtype.kind != "f" or labels.ndim > 1 or not is_whole(labels):
        return raw
    ids = np.where(np.isnan(labels), -1, labels).astype(np.int64)
    table = dataclasses.replace(raw.table, labels=ids)
    return RawDataset(raw.modality, table, raw.rows, raw.settings, raw.source, raw.split)


def is_whole(labels: np.ndarray) -> bool:
    """Return whether all real labels that are not missing are whole numbers."""
    known = labels[~np.isnan(labels)]
    return bool((known == np.round(known)).all())


def unlabelled(raw: RawDataset) -> np.ndarray | None:
    """Return which samples of a data set with labels have none, (N,) bool; None for one without any."""
    return missing_labels(raw) if is_labelled(raw) else None


def labelled(raw: RawDataset, name: str) -> RawDataset:
    """Return a data set after checking that it has class labels.

    Raises:
        ValueError: If it has no labels, or real numbers.
    """
    if not is_labelled(raw):
        raise ValueError(
            f"The {name} data has no labels. Use one folder per class, a metadata.csv or parquet with a column "
            "`label`, or name the column with --label_column."
        )
    if raw.labels.dtype.kind != "i" and raw.labels.ndim == 1:
        raise ValueError(f"The labels of the {name} data are real numbers; classification needs classes.")
    return raw


def warn_missing_classes(raw: RawDataset, names: Sequence[str]) -> None:
    """Log a warning that names the classes of a model without training samples.

    Args:
        raw: Training samples.
        names: Names of the L classes.
    """
    if raw.labels.ndim > 1:
        target = MultiLabelTarget(raw, names)
        taught = set(target.places[raw.labels.any(axis=0)].tolist())
    else:
        ids = ClassTarget(raw, names).ids
        taught = {ids[label] for label in np.unique(raw.labels).tolist()}
    untaught = [name for number, name in enumerate(names) if number not in taught]
    if untaught:
        shown = ", ".join(untaught[:10]) + (", ..." if len(untaught) > 10 else "")
        logger.warning("No training samples for %d of the %d classes: %s.", len(untaught), len(names), shown)


def class_fields(names: Sequence[str], multi_label: bool = False) -> dict[str, Any]:
    """Return the fields of a model configuration for L classes with these names, one or several per sample.

    Raises:
        ValueError: If two classes have the same name, by which classes are told apart.
    """
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(
            f"Two of the {len(names)} classes have the name {twice!r}. Give each class a name of its own."
        )
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": MULTI_LABEL if multi_label else SINGLE_LABEL,
    }


def class_names(raw: RawDataset) -> list[str]:
    """Return the names of the L classes of a labelled data set, or its label values if classes have no names."""
    if raw.label_names is not None:
        return list(raw.label_names)
    if raw.labels.ndim > 1:
        return [str(number) for number in range(raw.labels.shape[1])]
    return [str(number) for number in np.unique(raw.labels[raw.labels >= 0])]


def fraction_of_each_class(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the sorted indices of a random share of each class, rounded, at least one sample per class.

    Of samples with several classes each, every set of classes counts as one class.
    """
    if labels.ndim > 1:
        labels = np.unique(labels, axis=0, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))
