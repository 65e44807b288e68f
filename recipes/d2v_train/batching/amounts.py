"""How much data a source holds, for cards and records: hours of speech, tokens of text, pictures.

What is not known already is estimated from a fixed part of the samples, so that it takes about a second at any size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from d2v_train.batching.lengths import header_seconds, token_lengths
from d2v_train.data.accounts import PLURALS
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.data.source_list import parts_of
from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.inputs.joined_clips import JoinedClips
from d2v_train.inputs.packing import PackedTextDataset


MEASURED = 500
"""Most samples of a source whose length is found."""


class Amount(NamedTuple):
    """How much data there is.

    Attributes:
        value: Number of `unit`.
        unit: "hours", "tokens" or "pictures".
        exact: Whether all samples were counted; otherwise the value is an estimate.
    """

    value: float
    unit: str
    exact: bool


def amount_of(dataset: Any, transform: Any = None) -> Amount | None:
    """Return how much data a data set holds.

    Args:
        dataset: `RawDataset`, the result of `transform.prepare`, or a `JoinedDataset` of either.
        transform: Transform of texts, which knows the tokenizer and where long ones are cut.

    Returns:
        The sum over all sources; None if one of them would have to be read for it: streams, files behind URLs.
    """
    found = [_of_one(part, transform) for part in parts_of(dataset).values()]
    return None if None in found else total(found)


def total(amounts: Iterable[Amount]) -> Amount:
    """Return the sum of amounts of one unit."""
    amounts = list(amounts)
    return Amount(sum(each.value for each in amounts), amounts[0].unit, all(each.exact for each in amounts))


def _of_one(dataset: Any, transform: Any) -> Amount | None:
    if isinstance(dataset, PackedTextDataset):
        return Amount(len(dataset.tokens), "tokens", True)
    raw: RawDataset = dataset.dataset if isinstance(dataset, JoinedClips) else dataset
    if raw.modality in ("vision", "arrays"):
        return Amount(len(raw), PLURALS[raw.modality], True)
    known = raw.modality == "audio" and raw.lengths is not None and (raw.lengths >= 0).all()
    if known:
        return Amount(float(raw.lengths.sum()) / SAMPLING_RATE / 3600, "hours", True)
    if raw.table.values.is_remote or raw.table.values.is_stream:
        return None
    part = raw.subset(MEASURED)
    if raw.modality == "audio":
        lengths, unit = header_seconds(part) / 3600, "hours"
    else:
        lengths, unit = token_lengths(part, transform, None, DataReport()).astype(np.float64), "tokens"
    readable = lengths[~np.isnan(lengths)]
    if not len(readable):
        return None
    exact = len(readable) == len(raw)
    return Amount(float(readable.sum() if exact else readable.mean() * len(raw)), unit, exact)
