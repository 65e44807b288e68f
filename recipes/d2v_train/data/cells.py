"""Cells of tables as values for the decoders: paths beside the table, encoded bytes, arrays of pixels or samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.files import is_url, open_file


@dataclass(frozen=True)
class MediaCells:
    """Makes the value that a decoder of images or recordings takes of the cells of a row.

    The first cell that is not null counts: a sample of a tar file is a .jpg or a .png.

    Args:
        is_audio: Whether arrays are samples of recordings, which need a sampling rate.
        sampling_rate: Sampling rate of arrays, in Hz, or None.
        has_rate: Whether the last cell is the sampling rate.
    """

    is_audio: bool
    sampling_rate: int | None = None
    has_rate: bool = False

    def __call__(self, cells: list[Any], folder: str) -> Any:
        """Return the value.

        Args:
            cells: Cells of the row.
            folder: Folder or URL that relative paths start from.

        Raises:
            BadSample: If a file cannot be read over the network, or an array has no sampling rate.
        """
        rate = self.sampling_rate
        if self.has_rate:
            *cells, found = cells
            rate = rate if found is None else _rate_of(found)
        value = next((cell for cell in cells if cell is not None), None)
        if isinstance(value, str):
            return _located(value, folder)
        if isinstance(value, dict):
            if value.get("array") is not None and self.is_audio:
                return self._recording(value["array"], value.get("sampling_rate") or rate)
            if value.get("bytes") is None and isinstance(value.get("path"), str):
                return _located(value["path"], folder)
        if isinstance(value, list | np.ndarray) and self.is_audio:
            return self._recording(value, rate)
        return value

    def _recording(self, samples: Any, rate: Any) -> dict[str, Any]:
        if rate is None:
            raise BadSample(
                "unreadable", "an array of samples without a sampling rate; set the option sampling_rate of the source"
            )
        return {"array": samples, "sampling_rate": int(rate)}


@dataclass(frozen=True)
class ArrayCells:
    """Makes the array of a sample of the cells of a row.

    Args:
        are_channels: Whether each cell is one channel, a list of as many numbers as the others; otherwise the first
            cell that is not null is the array.
    """

    are_channels: bool

    def __call__(self, cells: list[Any], folder: str) -> Any:
        """Return the undecoded array; arguments and errors are those of `MediaCells`.

        Raises:
            BadSample: If the channels have different lengths, or one is missing.
        """
        if not self.are_channels:
            return MediaCells(is_audio=False)(cells, folder)
        if any(cell is None for cell in cells):
            raise BadSample("missing", f"{sum(cell is None for cell in cells)} of {len(cells)} channels")
        try:
            return np.stack([np.asarray(cell) for cell in cells], axis=-1)
        except ValueError as error:
            raise BadSample("wrong shape", f"channels of different lengths: {error}") from error


def _rate_of(value: Any) -> int:
    try:
        return int(float(value))
    except (TypeError, ValueError) as error:
        raise BadSample("unreadable", f"the sampling rate {value!r} is not a number") from error


def _located(name: str, folder: str) -> Any:
    """Return the path of a file that a table names, or the content of one that lies on a server."""
    if not name.strip():
        return None
    path = name if is_url(name) or os.path.isabs(name) else os.path.join(folder, os.path.expanduser(name))
    if not is_url(path):
        # Some tables name their files from the working directory.
        return name if path != name and not os.path.exists(path) and os.path.exists(name) else path
    try:
        with open_file(path) as file:
            return {"bytes": file.read(), "path": path}
    except Exception as error:  # each file system raises its own exceptions
        raise BadSample("missing", f"{path}: {type(error).__name__}: {error}") from error
