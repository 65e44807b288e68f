"""Reasons why a sample cannot be used, conversions that are only noted, and the record of both for a dataset."""

from __future__ import annotations

import logging
from collections.abc import Callable


logger = logging.getLogger(__name__)

FATAL = (
    "unreadable",
    "truncated",
    "missing",
    "empty",
    "non-finite",
    "not UTF-8",
    "too large",
    "nothing to see",
    "transform failed",
    "no label",
    "wrong shape",
)
"""Reasons for which a sample is replaced by another one."""
NOTES = (
    "resampled",
    "mixed down to mono",
    "silent",
    "CMYK converted",
    "reduced to 8 bits",
    "transparency put on white",
    "reduced to 8 bits by value_range",
    "decoded at a smaller size",
    "first of several pictures",
    "damaged metadata ignored",
    "end of the file missing",
    "flat list taken for a square",
    "length in the header corrected",
    "silent channels left out",
    "channels in opposite phase: one taken",
    "scaled to [-1, 1]",
    "long word",
)
"""Things done to (or seen in) a sample that is used all the same."""
_SAID = {
    "reduced to 8 bits": (
        "It has more than 8 bits. Such pictures are scaled one by one: whole numbers by the least of 1, 8, 10, 12, "
        "14, 16, 24 or 32 bits that hold them, floats within [0, 1] by that range, others from their least to their "
        "greatest pixel. Set value_range=[low, high] to scale all pictures of the source alike."
    ),
    "decoded at a smaller size": (
        "It has more pixels than max_pixels. Such JPEGs are decoded at a half, quarter or eighth of their size."
    ),
}
"""What is logged when the first sample of a dataset gets a note."""
_BIT = {reason: 1 << position for position, reason in enumerate(FATAL + NOTES)}
_FATAL_BITS = sum(_BIT[reason] for reason in FATAL)


class BadSample(ValueError):
    """A value that cannot be used.

    Args:
        reason: One of `FATAL`.
        detail: Message of the decoding library.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)


class BadSamples:
    """Which samples of a dataset were bad or had to be converted, and why.

    Each sample is counted once per reason, however often it is read. The state is one int32 per sample in shared
    memory, so what the worker processes of a `DataLoader` find is seen by the main process.

    Args:
        size: Number of samples.
        name_of: Returns the name (file path, row number) of a sample from its index.
        before: Record of the dataset from which the samples were selected; its unusable ones count here too.
    """

    def __init__(self, size: int, name_of: Callable[[int], str] = str, before: BadSamples | None = None):
        import torch  # what reads tables, the help of the programs too, needs `BadSample` only

        self.flags = torch.zeros(size, dtype=torch.int32).share_memory_()
        self.name_of, self.before = name_of, before
        self._said: set[str] = set()

    def __bool__(self) -> bool:
        """Return whether anything was recorded."""
        return bool(self.flags.any()) or bool(self.before)

    @property
    def size(self) -> int:
        """Number of samples, with those left out before."""
        return len(self.flags) + (self.before.total if self.before else 0)

    def mark(self, index: int, reason: str) -> None:
        """Record that sample `index` has `reason` (of `FATAL` or `NOTES`), and log the first one of some notes."""
        if reason in _SAID and reason not in self._said:
            self._said.add(reason)
            if not (self.flags & _BIT[reason]).any():
                logger.warning("%s: %s", self.name_of(index), _SAID[reason])
        self.flags[index] |= _BIT[reason]

    def is_bad(self, index: int) -> bool:
        """Return whether sample `index` is known to be unusable."""
        return bool(self.flags[index] & _FATAL_BITS)

    @property
    def total(self) -> int:
        """Number of samples known to be unusable, with those left out before."""
        return self.found + (self.before.total if self.before else 0)

    @property
    def found(self) -> int:
        """Number of samples of the dataset itself known to be unusable."""
        return int(((self.flags & _FATAL_BITS) != 0).sum())

    def counts(self) -> dict[str, int]:
        """Return the number of samples by reason, fatal reasons first; reasons that never occurred are left out."""
        earlier = self.before.counts() if self.before else {}
        counted = {
            reason: int(((self.flags & bit) != 0).sum()) + earlier.get(reason, 0) for reason, bit in _BIT.items()
        }
        return {reason: count for reason, count in counted.items() if count}

    def names(self, reason: str, limit: int | None = None) -> list[str]:
        """Return the names of up to `limit` samples with `reason`, in the order of the dataset."""
        found = (self.flags & _BIT[reason]).nonzero().flatten()[:limit]
        earlier = self.before.names(reason, limit) if self.before else []
        return [*earlier, *(self.name_of(int(index)) for index in found)][:limit]

    def report(self, limit: int = 3) -> str:
        """Return a printable summary of what was recorded so far, with up to `limit` names per fatal reason."""
        counts = self.counts()
        if not counts:
            return f"No bad samples found among {self.size:,}."
        if not self.total:
            lines = [f"All {self.size:,} samples can be used. Noted:"]
        else:
            verbs = ("is", "was") if self.total == 1 else ("are", "were")
            what = "{} unusable and {} replaced or left out".format(*verbs)
            lines = [f"Of {self.size:,} samples, {self.total:,} {what}:"]
        for reason, count in counts.items():
            lines.append(f"  {reason}: {count:,}")
            if reason in FATAL:
                shown = ", ".join(self.names(reason, limit))
                lines[-1] += f" ({shown}{', ...' if count > limit else ''})"
        return "\n".join(lines)
