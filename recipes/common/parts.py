"""Which samples a probe is fitted on, and which ones it is measured on."""

from __future__ import annotations

import logging

import numpy as np

from .datasets import RawDataset, draw_rows, open_dataset
from .features import MissingLabelsError, whole_label
from .tables import SplitNotFoundError


logger = logging.getLogger(__name__)

TEST_SHARE = 0.2
"""Part of the training split that is measured on where there is no test split."""


def open_parts(
    modality: str,
    config,
    data: str | None,
    train_split: str,
    test_split: str | None,
    test_groups: list[str] | None,
    exclude_groups: list[str] | None,
    max_samples: int | None,
    options: dict | None,
) -> tuple[RawDataset, RawDataset, bool]:
    """Open the part that probes are fitted on and the part they are measured on.

    Args:
        modality: "vision", "audio" or "text".
        config: Data2VecConfig, for the number of channels.
        data: source as `open_dataset` takes it.
        train_split: split that the probes are fitted on.
        test_split: split that they are measured on. None for "test" (or its stand-ins), and where there is none: the
            test groups of the training split, or without groups a stratified fifth of it.
        test_groups, exclude_groups, max_samples: see `run_probe`.
        options: passed on to `open_dataset`.

    Returns:
        Training part, test part, and whether the test part was held out of the training split.

    Raises:
        MissingLabelsError: no class labels.
        SplitNotFoundError: there is no `train_split` or no `test_split`.
        ValueError: both parts are the same split and no groups tell them apart, or nothing can be held out.
    """
    if train_split == (test_split or "test") and not test_groups:
        raise ValueError(
            f"Training and test part are both the split {train_split!r}: the probe would be measured on what it was "
            "fitted on. Name another --test_split, or the groups to test on with --test_groups."
        )
    where = data or "the built-in data"
    options = {"on_bad": "raise", **(options or {})}
    if modality == "vision":
        options.setdefault("channels", config.vision_config.num_channels)
    excluded = exclude_groups or None

    def open_test(split: str) -> RawDataset:
        return open_dataset(
            modality,
            data,
            split,
            only_groups=test_groups,
            exclude_groups=excluded,
            max_samples=max_samples,
            **options,
        )

    test = None
    try:
        test = open_test(test_split or "test")
    except SplitNotFoundError:
        if test_split is not None:
            raise
    if test is None and test_groups:
        logger.warning("%s has no test split; the test groups are taken from its split %r.", where, train_split)
        test = open_test(train_split)
    held_out = test is None
    left_out = [*(exclude_groups or []), *(test_groups or [])]
    train = open_dataset(
        modality,
        data,
        train_split,
        exclude_groups=left_out or None,
        max_samples=None if held_out else max_samples,
        **options,
    )
    for part, split in ((train, train_split), (test, test_split or "test")):
        if part is not None and part.labels is None:
            raise MissingLabelsError(
                f"The split {split!r} of {where} has no labels, and a probe measures classes. "
                "Give data with a `label` column (another name: --label_column), or a folder with one folder a class."
            )
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


def hold_out(
    dataset: RawDataset, max_samples: int | None = None, share: float = TEST_SHARE, seed: int = 0
) -> tuple[RawDataset, RawDataset]:
    """Split a dataset in two, class by class.

    Args:
        dataset: with labels.
        max_samples: at most so many samples of either part, drawn at random; None for all.
        share: of every class that goes into the second part, rounded, at least one sample; of a class with a single
            sample none.
        seed: of the draw.

    Returns:
        The rest and the part held out, in the order of `dataset`.

    Raises:
        MissingLabelsError: a label is missing or a real number.
        ValueError: no class has two samples, or `max_samples` is below 1.
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
            f"There is no test split, and none can be held out of the {len(labels)} training samples, because no "
            "class has two of them. Give more samples of a class, or a test split."
        )
    parts = []
    for indices in (np.flatnonzero(~chosen), np.flatnonzero(chosen)):
        parts.append(dataset.select(draw_rows(indices, max_samples, generator)))
    return parts[0], parts[1]
