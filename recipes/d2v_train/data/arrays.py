"""Arrays of numbers from files of NumPy, nested lists and columns, as (sides ..., channels).

Legend: C channels, n dimensions without the channels.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.file_formats import conversion_advice
from d2v_train.data.tables import SourceSettings


ARRAY_SUFFIXES = (".npy", ".npz")
"""Suffixes of files of one array each."""
MAPPED_FROM = 2**22
"""Numbers of an array from which it stays in its file, of which only the crop is read."""
MOST_DIMS = 3
"""Largest number of dimensions without the channels."""
_CHUNK = 2**20
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
# Files that were found to be finite, by path, size and time of change: reading all of a long one takes seconds.
_FINITE: set[tuple[str, int, int]] = set()


def decode_array(value: Any, settings: SourceSettings) -> np.ndarray:
    """Decode an array and check that all its numbers are finite.

    Args:
        value: Array, nested lists, path or bytes of a `.npy` or of a `.npz` with one array, dict with "bytes" and
            "path".
        settings: `num_dims`, `num_channels` and `channels_first`.

    Returns:
        (sides ..., C), read-only: float32 in memory, or from `MAPPED_FROM` numbers on a view of the file, in its type.

    Raises:
        BadSample: If the value is missing, damaged, empty, ragged, not of numbers, of another shape than the settings
            require, or has NaN or infinite numbers.
    """
    array = arranged(read_array(value), settings)
    if array.size == 0:
        raise BadSample("empty", f"an array of shape {array.shape}")
    if array.size >= MAPPED_FROM and isinstance(_base(array), np.memmap):
        _check_finite_file(array)
        return array
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise BadSample("non-finite", "NaN or infinite numbers, or such that are too large for float32")
    array.flags.writeable = False
    return array


def read_array(value: Any) -> np.ndarray:
    """Return an array of real numbers as it is stored; that of a `.npy` is mapped, not read.

    Raises:
        BadSample: If the value is missing, damaged, ragged, or not of numbers.
    """
    if isinstance(value, dict) and value.get("array") is not None:
        value = value["array"]
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None:
        raise BadSample("missing", "neither an array, nor bytes, nor a path")
    if isinstance(value, bytes | bytearray | memoryview):
        value = _from_bytes(bytes(value))
    elif isinstance(value, str | Path):
        value = _from_file(os.fspath(value))
    return _numbers(value)


def arranged(array: np.ndarray, settings: SourceSettings) -> np.ndarray:
    """Return an array with its channels last, one channel added if it has none.

    Without `num_dims`, an array of one side is a series, and any other has its channels in its last side, or its first
    with `channels_first`.

    Raises:
        BadSample: If its number of sides or of channels is not that of the settings.
    """
    dims, channels = settings.num_dims, settings.num_channels
    if dims is None:
        dims = max(array.ndim - 1, 1)
    if array.ndim == dims:
        array = array[..., None]
    elif settings.channels_first and array.ndim == dims + 1:
        array = np.moveaxis(array, 0, -1)
    if array.ndim != dims + 1 or not 1 <= dims <= MOST_DIMS:
        raise BadSample(
            "wrong shape", f"{array.shape} are not {dims} dimensions and the channels; at most {MOST_DIMS} are read"
        )
    if channels is not None and array.shape[-1] != channels:
        raise BadSample("wrong shape", f"{array.shape} has {array.shape[-1]} channels instead of {channels}")
    return array


def array_shape(value: Any, settings: SourceSettings) -> tuple[int, ...] | None:
    """Return the shape (sides ..., C) of an undecoded array, of a file from its header; None of a bad one."""
    try:
        return arranged(read_array(value), settings).shape
    except BadSample:
        return None


def check_shapes(values: Iterable[Any], settings: SourceSettings, where: str) -> None:
    """Check that the first samples of a source have the dimensions and channels that the model takes.

    If some of them have, the others are bad samples, which are counted one by one.

    Args:
        values: Undecoded samples.
        settings: What the model takes.
        where: Name of the source.

    Raises:
        ValueError: If none of those that can be read has.
    """
    if settings.num_dims is None and settings.num_channels is None:
        return
    found: Counter[tuple[int, ...]] = Counter()
    for value in values:
        try:
            array = read_array(value)
        except BadSample:
            continue
        if array_shape(array, settings) is not None:
            return
        found[array.shape] += 1
    if found:
        raise ValueError(_other_shape(found.most_common(1)[0][0], settings, where))


def _other_shape(shape: tuple[int, ...], settings: SourceSettings, where: str) -> str:
    """Return what to do about arrays that the model does not take."""
    dims, channels = settings.num_dims or max(len(shape) - 1, 1), settings.num_channels
    message = f"The arrays of {where} have shape {shape}, and the model takes {dims} dimensions"
    message += "." if channels is None else f" with {channels} channels."
    sides = (*shape, 1) if len(shape) == dims else shape
    if settings.channels_first and len(shape) > 1:
        sides = (*sides[1:], sides[0])
    if len(sides) == dims + 1:  # the channels are wrong
        ways = [f"set model.arrays_config.num_channels={sides[-1]}"]
        turned = sides[0] if not settings.channels_first else sides[-2]
        if turned == channels and len(shape) > 1:
            ways.insert(0, f"set the option channels_first={'false' if settings.channels_first else 'true'}")
    else:
        fitting = [count for count in (len(shape), len(shape) - 1) if 1 <= count <= MOST_DIMS]
        ways = [f"set model.arrays_config.num_dims={count}" for count in fitting[-1:]]
        ways.append("reshape them")
    return f"{message} For a new model {', or '.join(ways)}; a trained model takes what it was trained on."


def _from_bytes(content: bytes) -> Any:
    if not content:
        raise BadSample("empty", "a file of 0 bytes")
    _check_format(content[:4096])
    return _loaded(io.BytesIO(content), None)


def _from_file(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadSample("missing", str(error)) from error
    if not head:
        raise BadSample("empty", "a file of 0 bytes")
    _check_format(head)
    return _loaded(path, "r" if head.startswith(_NPY) else None)


def _check_format(head: bytes) -> None:
    if not head.startswith((_NPY, _ZIP)):
        raise BadSample("unreadable", conversion_advice(head, "arrays") or "neither a .npy nor a .npz of NumPy")


def _loaded(file: Any, mode: str | None) -> Any:
    """Return the array of a file; objects, which would run code, are refused."""
    try:
        found = np.load(file, mmap_mode=mode, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            return found
        with found:
            if len(found.files) != 1:
                names = ", ".join(found.files[:5])
                raise BadSample("unreadable", f"a .npz of {len(found.files)} arrays ({names}); save one in each file")
            return found[found.files[0]]
    except BadSample:
        raise
    except Exception as error:  # of the parts of the header, of zip files and of maps
        message = " ".join(str(error).split())
        if "allow_pickle" in message or "Object arrays" in message:
            raise BadSample("unreadable", "an array of Python objects; save numbers of one type") from error
        reason = "truncated" if "mmap length" in message or "cannot reshape" in message else "unreadable"
        raise BadSample(reason, f"{type(error).__name__}: {message}") from error


def _numbers(value: Any) -> np.ndarray:
    """Return nested lists or an array as an array of real numbers."""
    try:
        array = value if isinstance(value, np.memmap) else np.asarray(value)
        if array.dtype == object:
            array = np.array(_plain(array))
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error):
            raise BadSample("wrong shape", "lists of different lengths") from error
        raise BadSample("unreadable", f"{type(error).__name__}: {error}") from error
    if array.dtype == object:
        raise BadSample("unreadable", "missing or other values among the numbers")
    if array.dtype.kind not in "biuf":
        raise BadSample("unreadable", f"an array of type {array.dtype}, not of real numbers")
    if array.ndim == 0:
        raise BadSample("wrong shape", "a single number")
    return array


def _plain(value: Any) -> Any:
    """Return nested arrays and lists as nested lists, with NaN for None."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(entry) for entry in value]
    return float("nan") if value is None else value


def _base(array: np.ndarray) -> Any:
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    return array


def _check_finite_file(array: np.ndarray) -> None:
    """Check all numbers of a mapped file, once for each process."""
    if array.dtype.kind != "f":
        return
    path = getattr(_base(array), "filename", None)
    stat = os.stat(path) if path else None
    key = (os.fspath(path), stat.st_size, stat.st_mtime_ns) if stat else None
    if key in _FINITE:
        return
    rows = max(1, _CHUNK // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        if not np.isfinite(part).all():
            raise BadSample("non-finite", "NaN or infinite numbers")
        if part.dtype.itemsize > 4 and np.abs(part).max() > np.finfo(np.float32).max:
            raise BadSample("non-finite", "numbers that are too large for float32")
    if key is not None:
        _FINITE.add(key)
