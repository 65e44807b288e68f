"""MpegFrames of MP3 files: how many there are, whatever the first one says."""

from __future__ import annotations

import struct
from typing import NamedTuple

from d2v_train.data.bad_samples import BadSample


# Bit rates in kbit/s by (MPEG 1 or not, layer) and index.
_BIT_RATES = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)
_FIXED = 0xFFFE_0C00
"""Bits of a header that all frames of a file share: sync, version, layer, sampling rate."""
_LOST = 64 * 2**10
"""Bytes in which the next frame is searched for after other data."""
_COUNT_SLACK = 2
"""MpegFrames by which a count may differ from those that are there: writers do not agree what counts."""


class Frame(NamedTuple):
    """Header of a frame."""

    mpeg1: bool
    layer: int
    bit_rate: int
    size: int
    mono: bool


class Info(NamedTuple):
    """Statements of the first frame; positions in the file, None where there is no such statement."""

    count_at: int | None
    count: int
    size_at: int | None
    size: int


class MpegFrames(NamedTuple):
    """MpegFrames of a file."""

    count: int
    """Number of whole ones."""
    varies: bool
    """Whether their bit rate varies."""
    cut: bool
    """Whether there is a part of another one at the end."""
    runs: list[tuple[int, int]]
    """Start and end of what lies together in the file."""


def _frame(encoded: bytes, position: int) -> Frame | None:
    """Return the frame at `position`, or None if there is none."""
    if position + 4 > len(encoded):
        return None
    header = int.from_bytes(encoded[position : position + 4], "big")
    version, layer = header >> 19 & 3, 4 - (header >> 17 & 3)
    index, rate = header >> 12 & 15, header >> 10 & 3
    if header >> 21 != 0x7FF or version == 1 or layer == 4 or index in (0, 15) or rate == 3:
        return None
    mpeg1, padding = version == 3, header >> 9 & 1
    hertz = _RATES[rate] >> (0 if mpeg1 else 1 if version == 2 else 2)
    bit_rate = _BIT_RATES[mpeg1, layer][index]
    if layer == 1:
        size = (12_000 * bit_rate // hertz + padding) * 4
    else:
        size = (144_000 if mpeg1 or layer == 2 else 72_000) * bit_rate // hertz + padding
    return Frame(mpeg1, layer, bit_rate, size, header >> 6 & 3 == 3)


def first_frame(encoded: bytes) -> int | None:
    """Return the position of the first frame, behind ID3 tags; None if two in a row are nowhere to be found."""
    return _next_frame(encoded, _after_tags(encoded, 0), None)


def _after_tags(encoded: bytes, position: int) -> int:
    """Return the position behind the ID3 tags at `position`."""
    while (tag := encoded[position : position + 3]) in (b"ID3", b"TAG"):
        size = encoded[position + 6 : position + 10]
        if tag == b"TAG" or len(size) < 4:
            position += 128
        else:
            position += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    return position


def _next_frame(encoded: bytes, position: int, fixed: int | None) -> int | None:
    """Return the position of the next frame that another one follows, or None."""
    end = min(position + _LOST, len(encoded))
    while 0 <= (position := encoded.find(b"\xff", position, end)):
        frame = _frame(encoded, position)
        if frame is not None and (fixed is None or _fixed(encoded, position) == fixed):
            after = position + frame.size
            if after == len(encoded) or (
                _frame(encoded, after) is not None and _fixed(encoded, after) == _fixed(encoded, position)
            ):
                return position
        position += 1
    return None


def _fixed(encoded: bytes, position: int) -> int:
    return int.from_bytes(encoded[position : position + 4], "big") & _FIXED


def _info(encoded: bytes, start: int, frame: Frame) -> Info | None:
    """Return what a Xing, Info or VBRI frame states, or None if the frame at `start` is none."""
    if frame.layer != 3:
        return None
    side = (17 if frame.mono else 32) if frame.mpeg1 else (9 if frame.mono else 17)
    for at in (start + 4 + side, start + 6 + side):
        if encoded[at : at + 4] in (b"Xing", b"Info") and at + 16 <= len(encoded):
            flags, count, size = struct.unpack_from(">III", encoded, at + 4)
            if not flags & 1:
                return Info(None, 0, None, 0)
            return Info(at + 8, count, at + 12, size) if flags & 2 else Info(at + 8, count, None, 0)
    at = start + 36
    if encoded[at : at + 4] == b"VBRI" and at + 18 <= len(encoded):
        size, count = struct.unpack_from(">II", encoded, at + 10)
        return Info(at + 14, count, at + 10, size)
    return None


def _walk(encoded: bytes, position: int) -> MpegFrames:
    """Return the frames from `position` on."""
    fixed, count, end = _fixed(encoded, position), 0, len(encoded)
    frames: dict[bytes, Frame] = {}  # by the bytes of the header that tell the size, as there are many frames
    runs, start = [], position
    while position < end:
        key = encoded[position : position + 3]
        if key not in frames:
            frame = _frame(encoded, position)
            if frame is None or _fixed(encoded, position) != fixed:
                runs.append((start, position))
                found = _next_frame(encoded, _after_tags(encoded, position), fixed)
                start = position = end if found is None else found
                continue
            frames[key] = frame
        position += frames[key].size
        count += 1
    cut = position > end
    runs.append((start, end))
    varies = len({frame.bit_rate for frame in frames.values()}) > 1
    return MpegFrames(count - cut, varies, cut, [run for run in runs if run[0] < run[1]])


def _with_small_frame(encoded: bytes, start: int, replaced: int) -> tuple[bytes, int]:
    """Return the file with a silent frame of the least bit rate at `start`, and the samples of that.

    Decoders without a statement of the length divide the size of the file by that of the first frame.
    """
    header = bytearray(encoded[start : start + 4])
    header[1] |= 1  # without checksum
    header[2] = header[2] & 0x0C | 0x10
    frame = _frame(bytes(header), 0)
    silent = bytes(header).ljust(frame.size, b"\0")
    samples = 384 if frame.layer == 1 else 1152 if frame.layer == 2 or frame.mpeg1 else 576
    return encoded[:start] + silent + encoded[start + replaced :], samples


def corrected_mpeg(encoded: bytes) -> tuple[bytes, int]:
    """Correct an MP3 file whose first frame does not tell the number of frames that are there.

    Decoders guess the length of a file without such a statement from its first frame, which is wrong if the bit rate
    varies.

    Returns:
        The file, itself if nothing is wrong, and how many samples at its start do not belong to it.

    Raises:
        BadSample: If the file is truncated.
    """
    start = first_frame(encoded)
    if start is None:
        return encoded, 0
    first = _frame(encoded, start)
    info = _info(encoded, start, first)
    begin = start + (first.size if info is not None else 0)
    count, varies, cut, runs = _walk(encoded, begin)
    behind = len(encoded) - tags_size(encoded) - (runs[-1][1] if runs else begin)
    if info is not None and info.count_at is not None:
        lost = info.count - count
        if (lost > 0 and info.size > len(encoded) - start) or (lost > _COUNT_SLACK and cut):
            raise BadSample("truncated", f"{count} frames where the first one promises {info.count}")
        if abs(lost) <= _COUNT_SLACK and len(runs) < 2 and 100 * behind <= len(encoded):
            return encoded, 0
    if len(runs) > 1 or behind > 0:
        # Decoders give up where something else than a tag lies between or behind frames.
        encoded = encoded[:begin] + b"".join(encoded[start:end] for start, end in runs)
    if info is None:
        return _with_small_frame(encoded, start, 0) if varies else (encoded, 0)
    if info.count_at is None:
        return _with_small_frame(encoded, start, first.size)
    changed = bytearray(encoded)
    struct.pack_into(">I", changed, info.count_at, count)
    if info.size_at is not None:
        struct.pack_into(">I", changed, info.size_at, len(encoded) - start - tags_size(encoded))
    return bytes(changed), 0


def tags_size(encoded: bytes) -> int:
    """Return the size of the ID3 and APE tags at the end of a file."""
    size = 128 if encoded[-128:-125] == b"TAG" else 0
    at = encoded.rfind(b"APETAGEX", max(len(encoded) - 256, 0))
    return size + (32 + int.from_bytes(encoded[at + 12 : at + 16], "little") if at >= 0 else 0)
