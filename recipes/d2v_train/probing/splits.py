"""Training and test part of a probe."""

from __future__ import annotations

import logging
from typing import Any

from d2v_train.data.inventory import log_inventories
from d2v_train.data.labels import MissingLabelsError, hold_out, missing_labels, without_unlabelled
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import SourceSettings, SplitNotFoundError
from d2v_train.inputs.modalities import source_defaults
from d2v_train.options.files import build_section
from d2v_train.options.sections import ProbeDataOptions


logger = logging.getLogger(__name__)


def open_parts(
    modality: str, config: Any, section: ProbeDataOptions, max_samples: int | None = None, account: bool = True
) -> tuple[RawDataset, RawDataset, bool]:
    """Open the part that probes are fitted on and the part that they are measured on.

    Args:
        modality: Modality of the samples.
        config: Configuration of the model, for settings such as the channels of images.
        section: The data. `test_split` defaults to "test" (or a split that stands for it), and without one to the test
            groups of the training split, or without groups to a stratified fifth of it.
        max_samples: Maximum number of samples of either part.
        account: Whether to log what the data is read as.

    Returns:
        Training part, test part, and whether the test part was held out of the training split.

    Raises:
        MissingLabelsError: If the data has no class labels.
        SplitNotFoundError: If there is no `train_split` or no `test_split`.
        ValueError: If both parts are the same split without test groups, or no part can be held out.
    """
    train_split, test_split, test_groups = section.train_split, section.test_split, section.test_groups
    if train_split == (test_split or "test") and not test_groups:
        raise ValueError(
            f"Training and test part are both the split {train_split!r}: the probe would be measured on the samples "
            "it was fitted on. Name another --test_split, or the groups to test on with --test_groups."
        )
    where = section.data or "the built-in data"
    fields = {"on_bad": "raise", **source_defaults(config, modality), **section.dataset}
    settings = build_section(SourceSettings, fields, "dataset.")

    def opened(split: str, only: list[str], exclude: list[str], most: int | None) -> RawDataset:
        return open_dataset(
            modality,
            section.data,
            split,
            settings,
            only_groups=only or None,
            exclude_groups=exclude or None,
            max_samples=most,
        )

    test = None
    try:
        test = opened(test_split or "test", test_groups, section.exclude_groups, max_samples)
    except SplitNotFoundError:
        if test_split is not None:
            raise
    if test is None and test_groups:
        logger.warning("%s has no test split; the test groups are taken from its split %r.", where, train_split)
        test = opened(train_split, test_groups, section.exclude_groups, max_samples)
    held_out = test is None
    left_out = [*section.exclude_groups, *test_groups]
    train = opened(train_split, [], left_out, None if held_out else max_samples)
    if account:
        log_inventories(part for part in (train, test) if part is not None)
    for part, split in ((train, train_split), (test, test_split or "test")):
        if part is not None and (part.labels is None or missing_labels(part).all()):
            raise MissingLabelsError(
                f"The split {split!r} of {where} has no labels, and a probe measures classes. "
                "Give data with a `label` column (another name: --label_column), or a folder with a folder per class."
            )
        if part is not None and part.labels.ndim > 1:
            raise MissingLabelsError(
                f"The samples of the split {split!r} of {where} have several classes each, and a probe measures one. "
                "Name another --label_column."
            )
    train = without_unlabelled(train, missing_labels(train), f"Split {train_split!r} of {where}")
    if test is not None:
        test = without_unlabelled(test, missing_labels(test), f"Split {test_split or 'test'!r} of {where}")
    if held_out:
        train, test = hold_out(train, max_samples)
        logger.warning(
            "%s has no test split: a fifth of every class of its split %r was held out (%d samples), and the probes "
            "are fitted on the rest (%d).",
            where,
            train_split,
            len(test),
            len(train),
        )
    return train, test, held_out
