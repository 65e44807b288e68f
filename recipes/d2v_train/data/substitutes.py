"""Substitutes for samples that cannot be used."""

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
"""Samples after a bad one that are tried before distant ones, so that one damaged folder does not end a run."""
MOST_TRIES = 1000
"""Maximum number of samples that are tried instead of a bad one."""


def candidates(index: int, size: int) -> Iterator[int]:
    """Yield `index` and its substitutes, each once: the samples after it, then distant ones."""
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
    """Return the item of a sample, or of its first substitute that can be transformed, under its id.

    The dataset replaces samples that cannot be decoded; this function replaces those that fail in the transform. As
    that may depend on the seed, failures are not remembered.

    Args:
        dataset: Records of one modality, with `dataset.read(index, report, drawn)`.
        index: Index of the sample.
        transform: `transform(record, seed=...) -> item`.
        modality: Name of the modality, for messages.
        seed: Seed of the transform.
        report: Receives bad samples and notes; None logs bad samples instead.

    Raises:
        NoUsableSample: If neither the sample nor a substitute can be used.
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
        except Exception as problem:  # each library raises its own exceptions
            error = BadSample("transform failed", f"{type(problem).__name__}: {problem}")
        if "origin" in record:
            record["origin"].reject(error, report)
    raise NoUsableSample(f"None of the {modality} samples that were tried can be used; the last one: {error}")


def check_item(item: dict[str, Any]) -> None:
    """Check that an item is finite and not empty.

    Raises:
        BadSample: If it contains NaN or infinite values, or no tokens besides start and end.
    """
    for name, value in item.items():
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            continue
        # The sum takes a fraction of the time, and is not finite if a value is not; it may also overflow.
        if not math.isfinite(value.sum().item()) and not value.isfinite().all():
            raise BadSample("non-finite", f"NaN or infinite values in {name} after the transform")
    tokens = item.get("input_ids")
    if tokens is not None and len(tokens) <= 2:
        raise BadSample("empty", "no tokens")
