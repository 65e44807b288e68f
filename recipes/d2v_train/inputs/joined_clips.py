"""Recordings with access to further clips of the same speaker, for crops that are longer than a clip."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport


class JoinedClips(Dataset):
    """Recordings whose records have a function "another", which returns a random clip of the same group.

    Args:
        dataset: Recordings with groups.
        block: Number of consecutive samples in a block; only clips of the same block are joined, as a stream keeps no
            others in memory. None takes all of the group.
    """

    def __init__(self, dataset: RawDataset, block: int | None = None):
        self.dataset, self.block = dataset, block
        groups = np.array(dataset.groups)
        order = np.argsort(groups, kind="stable")
        names, starts = np.unique(groups[order], return_index=True)
        self._members = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def read(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return a record with "another", `another(rng) -> (S,)`; arguments as in `RawDataset.read`.

        Bad samples among the other clips are reported like the record itself.
        """
        record = self.dataset.read(index, report, drawn)
        members = self._near(record["id"], self._members[record["group"]])
        return record | {"another": partial(self._another, members, report, drawn)}

    def name_of(self, index: int) -> str:
        """Return the human-readable name of a sample."""
        return self.dataset.name_of(index)

    def _near(self, index: int, members: np.ndarray) -> np.ndarray:
        """Return the members of a group, (N,) ascending, in the block of a sample."""
        if self.block is None:
            return members
        first = index // self.block * self.block
        near = members[slice(*np.searchsorted(members, [first, first + self.block]))]
        return near if len(near) else members  # the substitute of a bad clip may belong to the next block

    def _another(
        self, members: np.ndarray, report: DataReport | None, drawn: bool, rng: np.random.Generator
    ) -> np.ndarray:
        return self.dataset.read(int(members[rng.integers(len(members))]), report, drawn)["audio"]
