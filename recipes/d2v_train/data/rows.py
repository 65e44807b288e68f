"""Undecoded values, row by row: in memory, in files, or several of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from d2v_train.data.bad_samples import BadSample


class Rows(Protocol):
    """The undecoded values of a source. A new data format is one class with these members.

    Attributes:
        names: Name of each row, for reports; None names them by number.
        is_stream: Whether rows are read from their files on access, not kept as a whole.
        is_remote: Whether they are read over the network.
    """

    names: Sequence[str] | None = None
    is_stream: bool = False
    is_remote: bool = False

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, row: int) -> Any:
        """Return the undecoded value of a row: bytes, path, array, dict, str, or a pair of str."""

    def keep(self, rows: int) -> None:
        """Set how many rows of a stream stay in memory."""

    def joint(self, row: int) -> str | None:
        """Return the text between a row and the one before whose document it continues; None at a new document."""
        return None

    def problems(self) -> dict[int, BadSample]:
        """Return the rows that are known to be unreadable."""
        return {}

    @property
    def identity(self) -> str | None:
        """A string that changes with the values; None if that requires reading them."""
        return None


class LazySequence(Sequence):
    """Values that are computed on access.

    Args:
        size: Number of values.
        make: Returns one of them by its index.
    """

    def __init__(self, size: int, make: Callable[[int], Any]):
        self.size, self.make = size, make

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < self.size:
            raise IndexError(row)
        return self.make(int(row))


class MemoryRows(Rows):
    """Values that are in memory.

    Args:
        values: One value per row.
        names: Name of each, or None.
    """

    def __init__(self, values: Sequence[Any], names: Sequence[str] | None = None):
        self.values, self.names = values, names

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> Any:
        return self.values[row]

    def problems(self) -> dict[int, BadSample]:
        found = {}
        for row, value in enumerate(self.values):
            value = value[0] if isinstance(value, tuple) and value else value
            if isinstance(value, BadSample):
                found[row] = value
        return found


class ListedRows(Rows):
    """Files of one sample each, of a listing.

    Args:
        listing: A `d2v_train.data.listing.Listing`.
        names: Names of the files in it.
    """

    def __init__(self, listing: Any, names: Sequence[str]):
        self.listing, self.names, self.is_remote = listing, names, listing.is_remote

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Any:
        return self.listing.value(self.names[row])

    @property
    def identity(self) -> str | None:
        return self.listing.identity(self.names)


class JoinedRows(Rows):
    """Several rows, one after another."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(part) for part in parts])
        self.is_stream = any(part.is_stream for part in parts)
        self.is_remote = any(part.is_remote for part in parts)
        if all(part.names is not None for part in parts):
            self.names = LazySequence(len(self), self._name)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(row)
        part, inner = self._place(row)
        return part[inner]

    def joint(self, row: int) -> str | None:
        part, inner = self._place(row)
        return part.joint(inner)

    def problems(self) -> dict[int, BadSample]:
        starts = [0, *self.ends[:-1].tolist()]
        return {
            start + row: problem
            for start, part in zip(starts, self.parts, strict=True)
            for row, problem in part.problems().items()
        }

    def keep(self, rows: int) -> None:
        for part in self.parts:
            part.keep(rows)

    @property
    def identity(self) -> str | None:
        identities = [part.identity for part in self.parts]
        return None if None in identities else " ".join(identities)

    def _place(self, row: int) -> tuple[Rows, int]:
        """Return the part that holds a row, and its row there."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part], row - (int(self.ends[part - 1]) if part else 0)

    def _name(self, row: int) -> str:
        part, inner = self._place(row)
        return part.names[inner]
