"""Which recordings a run takes, and how many it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.records import RawDataset
from d2v_train.support.atomic import write_json


SHOWN_NAMES = 5
"""Names that are printed of each kind of sample that is left out."""


class Selection:
    """Samples of a data set that are used, and the reasons why others are not.

    Args:
        raw: the data set.
        name: what to call it in messages.
    """

    def __init__(self, raw: RawDataset, name: str) -> None:
        self.raw, self.name = raw, name
        self.kept = np.ones(len(raw), dtype=bool)
        self.left_out: dict[str, np.ndarray] = {}

    def leave_out(self, reason: str, which: np.ndarray) -> None:
        """Leave out what is true in `which` (N,) and was not left out before."""
        new = which & self.kept
        if new.any():
            self.left_out[reason] = np.flatnonzero(new)
            self.kept &= ~new

    @property
    def indices(self) -> np.ndarray:
        """Places of the samples that are used.

        Raises:
            ValueError: there are none.
        """
        if not self.kept.any():
            raise ValueError(f"No sample of the {self.name} data is left. {self.report()}")
        return np.flatnonzero(self.kept)

    def names(self, reason: str, limit: int | None = None) -> list[str]:
        """Return the names of the samples that were left out for a reason."""
        return [self.raw.name_of(int(index)) for index in self.left_out[reason][:limit]]

    def report(self) -> str:
        """Return what is used and what is not, with the first names of each kind."""
        lines = [f"{self.name} data: {int(self.kept.sum()):,} of {len(self.raw):,} recordings are used."]
        for reason, indices in self.left_out.items():
            more = ", ..." if len(indices) > SHOWN_NAMES else ""
            lines.append(f"  {reason}: {len(indices):,} ({', '.join(self.names(reason, SHOWN_NAMES))}{more})")
        return "\n".join(lines)


def report_selections(selections: Sequence[Selection], args: Any) -> None:
    """Print what is used, and name all that is not in `left_out.json` in the folder of the run."""
    if args.process_index != 0:
        return
    print("\n".join(part.report() for part in selections))
    listed = {part.name: {reason: part.names(reason) for reason in part.left_out} for part in selections}
    if any(listed.values()):
        write_json(Path(args.output_dir) / "left_out.json", listed)
