"""Labels of records, and test parts held out of data without a test split."""

from __future__ import annotations

import logging

import numpy as np

from d2v_train.data.bad_samples import BadSamples
from d2v_train.data.records import RawDataset, draw_rows


logger = logging.getLogger(__name__)


TEST_SHARE = 0.2
"""Share of the training split that is held out if there is no test split."""


def missing_labels(dataset: RawDataset) -> np.ndarray:
    """Return which samples of a dataset with labels have none, (N,) bool: null, NaN or negative numbers of classes."""
    labels = dataset.labels
    if labels.dtype.kind == "i":
        return labels < 0
    return np.isnan(labels) if labels.ndim == 1 else np.isnan(labels).any(axis=1)


def without_unlabelled(dataset: RawDataset, missing: np.ndarray, where: str) -> RawDataset:
    """Return the dataset without the samples that have no label, which are counted and named in its `bad`.

    Args:
        dataset: Dataset.
        missing: (N,) bool, which samples have none.
        where: Name of the data, for the warning.
    """
    if not missing.any():
        return dataset
    record = BadSamples(len(dataset), dataset.name_of, dataset.bad.before)
    unreadable = dataset.table.values.problems()  # rows of damaged files have no label either
    for index in np.flatnonzero(missing).tolist():
        problem = unreadable.get(int(dataset.rows[index]))
        record.mark(index, "no label" if problem is None else problem.reason)
    kept = dataset.select(np.flatnonzero(~missing))
    kept.bad.before = record
    numbers = dataset.labels is not None and dataset.labels.dtype.kind == "i" and dataset.label_names is None
    hint = " Negative numbers mark missing labels; if one is a class, give the names of classes." if numbers else ""
    logger.warning("%s: %s.%s", where, record.report(), hint)
    return kept


def hold_out(
    dataset: RawDataset, max_samples: int | None = None, share: float = TEST_SHARE, seed: int = 0
) -> tuple[RawDataset, RawDataset]:
    """Split a dataset in two, class by class.

    Args:
        dataset: Dataset with labels.
        max_samples: Maximum number of samples of either part, drawn at random; None for all.
        share: Share of every class that goes into the second part, rounded, at least one sample; a class with a single
            sample gives none.
        seed: Seed of the draw.

    Returns:
        The rest and the part held out, in the order of `dataset`.

    Raises:
        MissingLabelsError: If a label is missing or a real number.
        ValueError: If no class has two samples, or `max_samples` is below 1.
    """
    labels = np.asarray([whole_label(label, index) for index, label in enumerate(dataset.labels)])
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            chosen[members[: max(1, round(len(members) * share))]] = True
    if not chosen.any():
        raise ValueError(
            f"No test part can be held out of the {len(labels)} training samples, because no class has two of them. "
            "Give more samples of a class, or a test split."
        )
    parts = []
    for indices in (np.flatnonzero(~chosen), np.flatnonzero(chosen)):
        parts.append(dataset.select(draw_rows(indices, max_samples, generator)))
    parts[1].bad.before = None  # what was left out before counts once
    return parts[0], parts[1]


class MissingLabelsError(ValueError):
    """A dataset that is to be probed has no class labels."""


def whole_label(label, index: int) -> int:
    """Return the label of sample `index` as an int.

    Raises:
        MissingLabelsError: If the label is missing, negative (as hidden test labels usually are) or a real number.
    """
    if label is None or (isinstance(label, int | np.integer) and label < 0):
        raise MissingLabelsError(
            f"Sample {index} has no label, and a probe measures classes. Give labelled data: a dataset with a `label` "
            "column, a folder with one sub-folder per class, or another split."
        )
    if isinstance(label, float | np.floating):
        raise MissingLabelsError(
            f"The label of sample {index} is the real number {label}: this is a regression task (such as GLUE stsb), "
            "and a probe measures classes. Probe a classification task instead (sst2, cola, mrpc, rte, qnli), or "
            "fine-tune on this one."
        )
    return int(label)
