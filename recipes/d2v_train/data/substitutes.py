"""Take a usable sample where the chosen one cannot be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.report import DataReport, NoUsableSample
from d2v_train.support.extras import MissingDependencyError


NEIGHBOURS = 100
"""Samples after a bad one that are tried before others are, so that one damaged folder does not end a run."""
MOST_TRIES = 1000
"""Samples that are tried in the place of a bad one."""


def candidates(index: int, size: int) -> Iterator[int]:
    """Sample `index` and those that stand in for it, best first, each once: the ones after it, then distant ones."""
    if size <= MOST_TRIES:
        yield from ((index + offset) % size for offset in range(size))
        return
    yield from ((index + offset) % size for offset in range(NEIGHBOURS))
    stride = round(size * 0.618)
    while math.gcd(stride, size) > 1:
        stride += 1
    distant = (turn * stride % size for turn in range(1, size))
    distant = (offset for offset in distant if offset >= NEIGHBOURS)
    yield from ((index + offset) % size for offset in islice(distant, MOST_TRIES - NEIGHBOURS))


def usable_item(
    dataset: Any,
    index: int,
    transform: Callable[..., dict[str, Any]],
    modality: str,
    seed: int,
    report: DataReport | None = None,
) -> dict[str, Any]:
    """Return the item of a sample, or under its id that of the first one after it that can be transformed.

    What cannot be decoded is replaced by the data set. This is for what only shows in the transform; as that may
    depend on the seed, it is not remembered.

    Args:
        dataset: records of one modality, by `dataset.read(index, report, drawn)`.
        index: the sample.
        transform: `transform(record, seed=...) -> item`.
        modality: for messages.
        seed: of the transform.
        report: that takes what is met; None logs bad samples instead.

    Raises:
        NoUsableSample: there is none.
    """
    identity, error = None, None
    for candidate in candidates(index, len(dataset)):
        record = dataset.read(candidate, report, drawn=error is None)
        identity = record["id"] if identity is None else identity
        try:
            item = transform({**record, "id": identity}, seed=seed)
            check_item(item)
            return item
        except (MissingDependencyError, NoUsableSample):
            raise
        except BadSample as problem:
            error = problem
        except Exception as problem:  # it is for libraries to say what a sample of some kind makes them raise
            error = BadSample("transform failed", f"{type(problem).__name__}: {problem}")
        if "origin" in record:
            record["origin"].reject(error, report)
    raise NoUsableSample(f"Not one of the {modality} samples that were tried can be used; the last one: {error}")


def check_item(item: dict[str, Any]) -> None:
    """Refuses an item that would poison its batch.

    Raises:
        BadSample: it holds NaN or infinite values, or no tokens besides start and end.
    """
    for name, value in item.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            continue
        # A sum takes a fraction of the time and is not finite where a value is not; it may also overflow.
        if not math.isfinite(value.sum().item()) and not value.isfinite().all():
            raise BadSample("non-finite", f"NaN or infinite values in {name} after the transform")
    tokens = item.get("input_ids")
    if tokens is not None and len(tokens) <= 2:
        raise BadSample("empty", "no tokens")
