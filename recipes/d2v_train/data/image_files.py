"""Pictures: files of any format that pillow reads, upright and within a bound of memory, and arrays of pixels.

What a file says about itself beside its pixels (EXIF, colour profile, comments) may be damaged without its pixels
being so: it is then left out and noted.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from d2v_train.data.audio_files import message_of
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.file_formats import conversion_advice
from d2v_train.support.extras import need


MAX_ELONGATION = 100
"""Largest ratio of an image's sides; a narrower strip, resized by its shorter side, would fill the memory."""
_ORIENTATION = 274
# Segments of JPEG that hold no pixels; APP0 and APP14 tell the colours, and stay.
_JPEG_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_JPEG_PIXELS = (b"\xff\xdb\x00", b"\xff\xc0\x00", b"\xff\xc2\x00", b"\xff\xc4\x00")
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# No byte of it begins a marker of JPEG.
_NOISE = bytes(151 * number % 255 for number in range(1, 2000))
_opening = threading.Lock()
if hasattr(os, "register_at_fork"):
    # A worker that is forked while another thread opens a picture would wait for that thread for ever.
    os.register_at_fork(after_in_child=lambda: globals().update(_opening=threading.Lock()))


@cache
def _pillow() -> ModuleType:
    """Import pillow, whose warnings about damaged metadata become notes."""
    Image = need("PIL.Image", "vision")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    return Image


def open_picture(encoded: bytes, max_pixels: int, notes: list[str]) -> Any:
    """Decode the first picture of a file, upright according to its EXIF orientation.

    Args:
        encoded: The file.
        max_pixels: Most pixels to decode. Larger JPEGs are decoded at a half, quarter or eighth of their size.
        notes: Takes the notes that apply.

    Raises:
        BadSample: If it is not a picture, or is truncated, too large or of an extreme shape.
        MissingDependencyError: If pillow is not installed.
    """
    _pillow()
    try:
        return _open_picture(encoded, max_pixels, notes)
    except BadSample:
        raise
    except Exception as error:  # PIL raises a dozen kinds of exception on damaged files, SyntaxError among them
        for stripped in _without_metadata(encoded):
            try:
                picture = _open_picture(stripped, max_pixels, notes)
                notes.append("damaged metadata ignored")
                return picture
            except BadSample:
                raise
            except Exception:  # the first error tells what is wrong
                continue
        # PIL has no exception of its own for truncated files, only the message of an OSError.
        if "truncated" in str(error).lower() or _is_cut_webp(encoded):
            picture = _without_end(encoded, max_pixels, notes)
            if picture is not None:
                return picture
            raise BadSample("truncated", message_of(error)) from error
        raise BadSample("unreadable", conversion_advice(encoded, "vision") or message_of(error)) from error


def _without_end(encoded: bytes, max_pixels: int, notes: list[str]) -> Any:
    """Return the picture of a JPEG that lacks nothing but its end, or None.

    Where all pixels are there, decoders pass over other bytes before the end; where some are not, they take them for
    pixels.
    """
    if encoded[:3] != b"\xff\xd8\xff":
        return None
    pictures, found = [], list(notes)
    for other in (b"", _NOISE):
        notes[:] = found
        try:
            pictures.append(_open_picture(encoded.removesuffix(b"\xff") + other + b"\xff\xd9", max_pixels, notes))
        except Exception:  # the error of the file itself tells what is wrong
            return None
    if pictures[0].tobytes() != pictures[1].tobytes():
        return None
    notes.append("end of the file missing")
    return pictures[0]


def _is_cut_webp(encoded: bytes) -> bool:
    return encoded[8:12] == b"WEBP" and int.from_bytes(encoded[4:8], "little") + 8 > len(encoded)


def check_shape(width: int, height: int) -> None:
    """Raise `BadSample` for an image without content, or of a shape that resizing would make huge."""
    if width * height <= 1:
        raise BadSample("nothing to see", f"an image of {'one pixel' if width * height else 'no pixels'}")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise BadSample("nothing to see", f"a strip of {width} x {height} pixels")


def _open_picture(encoded: bytes, max_pixels: int, notes: list[str]) -> Any:
    Image = _pillow()
    # Pillow's own bound is one of the process, and half of it is a warning; `_bound` is that of the source.
    with _opening:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(encoded))
        finally:
            Image.MAX_IMAGE_PIXELS = kept
    check_shape(*image.size)
    _bound(image, max_pixels, notes)
    if _has_frames(image):
        notes.append("first of several pictures")
    image.load()
    return upright(image, notes)


def _bound(image: Any, max_pixels: int, notes: list[str]) -> None:
    """Have a JPEG decoded at a smaller size if it has too many pixels.

    Raises:
        BadSample: If that is not possible.
    """
    width, height = image.size
    if width * height <= max_pixels:
        return
    # A progressive JPEG is decoded from the coefficients of all its pixels, two bytes each.
    most = max_pixels * (2 if image.info.get("progressive") else 64)
    if image.format in ("JPEG", "MPO") and width * height <= most:
        for scale in (2, 4, 8):
            if -(-width // scale) * -(-height // scale) <= max_pixels:
                image.draft(None, (width // scale, height // scale))
                notes.append("decoded at a smaller size")
                return
    size = f"{width} x {height} pixels, more than max_pixels={max_pixels:,}"
    raise BadSample("too large", f"{size}; make it smaller or raise the option")


def _has_frames(image: Any) -> bool:
    """Return whether a file holds further pictures: an animation, pages of TIFF, views of MPO."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a further one is damaged
        image.seek(0)
        return True


def upright(image: Any, notes: list[str]) -> Any:
    """Return an image turned according to its EXIF orientation; what cannot be read of that is noted."""
    Image = _pillow()
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        orientation = None
    if orientation not in (1, *turns) or not _is_exif(image.info.get("exif")):
        notes.append("damaged metadata ignored")
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _is_exif(block: bytes | None) -> bool:
    """Return whether all entries of the first directory of an EXIF block are there; True without a block."""
    if block is None:
        return True
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or len(block) < 8:
        return False
    start = struct.unpack_from(f"{order}I", block, 4)[0]
    if start + 2 > len(block):
        return False
    return start + 2 + 12 * struct.unpack_from(f"{order}H", block, start)[0] <= len(block)


def _without_metadata(encoded: bytes) -> Iterator[bytes]:
    """Yield a JPEG, PNG or WebP with its pixels and orientation, then with its pixels alone; nothing for others."""
    if encoded[:3] == b"\xff\xd8\xff":
        strip = _jpeg_pixels
    elif encoded[:8] == b"\x89PNG\r\n\x1a\n":
        strip = _png_pixels
    elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        strip = _webp_pixels
    else:
        return
    for keep_exif in (True, False):
        stripped = strip(encoded, keep_exif)
        if stripped != encoded:
            yield stripped


def _jpeg_pixels(encoded: bytes, keep_exif: bool) -> bytes:
    kept, position = [encoded[:2]], 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xDA:
            break
        end = position + 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        is_sound = encoded[end : end + 1] == b"\xff"
        if marker not in _JPEG_METADATA or (keep_exif and is_sound and encoded[position + 4 : end][:4] == b"Exif"):
            kept.append(encoded[position:end])
        elif not is_sound:
            # A segment of a wrong size: the next one is the first of those that tell about the pixels.
            found = [at for mark in _JPEG_PIXELS if (at := encoded.find(mark, position + 2)) >= 0]
            if not found:
                return encoded
            end = min(found)
        position = end
    return b"".join(kept) + encoded[position:]


def _png_pixels(encoded: bytes, keep_exif: bool) -> bytes:
    kept, position = [encoded[:8]], 8
    while position + 12 <= len(encoded):
        size, name = struct.unpack_from(">I4s", encoded, position)
        if name in _PNG_PIXELS or (keep_exif and name == b"eXIf"):
            kept.append(encoded[position : position + 12 + size])
        elif name[:1].isupper():
            return encoded  # an unknown chunk that the pixels depend on
        position += 12 + size
    return b"".join(kept)


def _webp_pixels(encoded: bytes, keep_exif: bool) -> bytes:
    left_out = (b"XMP ", b"ICCP") if keep_exif else (b"XMP ", b"ICCP", b"EXIF")
    kept, position = [], 12
    while position + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, position)
        chunk = bytearray(encoded[position : position + 8 + size + size % 2])
        if name == b"VP8X" and len(chunk) > 8:
            chunk[8] &= ~(0x24 if keep_exif else 0x2C)  # bits of what is left out
        if name not in left_out:
            kept.append(bytes(chunk))
        position += 8 + size + size % 2
    content = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def pixels_of(value: Any, notes: list[str]) -> np.ndarray:
    """Return numbers as pixels (H, W) or (H, W, C).

    Args:
        value: Array or nested lists (H, W), (H, W, C) or (C, H, W) of 1 to 4 channels; or a flat list of a square
            number of grey values.
        notes: Takes the notes that apply.

    Raises:
        BadSample: If the shape is another one, or the values are not numbers.
    """
    try:
        pixels = np.asarray(value)
    except ValueError as error:
        raise BadSample("unreadable", f"rows of pixels of different lengths: {error}") from error
    if pixels.dtype == object and pixels.ndim == 1 and len(pixels):
        try:  # rows as `datasets` and pandas read them from parquet
            pixels = np.stack([pixels_row(row) for row in pixels])
        except ValueError as error:
            raise BadSample("unreadable", f"rows of pixels of different lengths: {error}") from error
    if pixels.dtype.kind not in "buif":
        raise BadSample("unreadable", f"values of type {pixels.dtype} are not pixels")
    if pixels.size == 0:
        raise BadSample("empty", "no pixels")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise BadSample("non-finite", "NaN or infinite pixels")
    shape = pixels.shape
    if pixels.ndim == 1:
        side = round(len(pixels) ** 0.5)
        if side * side != len(pixels) or side < 2:
            raise BadSample(
                "unreadable",
                f"a flat list of {len(pixels)} numbers, whose height, width and channels are unknown; store nested "
                "lists, rows of pixels",
            )
        notes.append("flat list taken for a square")
        return pixels.reshape(side, side)
    if pixels.ndim == 3 and shape[2] > 4 and shape[0] <= 4:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise BadSample(
            "unreadable", f"an array of shape {shape}; expected (height, width) or (height, width, 1 to 4 channels)"
        )
    return pixels


def pixels_row(row: Any) -> np.ndarray:
    """Return a row of pixels, itself perhaps an array of arrays."""
    row = np.asarray(row)
    return np.stack([np.asarray(pixel) for pixel in row]) if row.dtype == object else row
