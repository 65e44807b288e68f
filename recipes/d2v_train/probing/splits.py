"""Which samples a probe is fitted on, and which ones it is measured on."""

from __future__ import annotations

import logging

from d2v_train.data.labels import MissingLabelsError, hold_out
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import SplitNotFoundError


logger = logging.getLogger(__name__)


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
