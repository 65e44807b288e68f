"""Decode stored values (bytes, paths, arrays) into PIL images, 16 kHz waveforms and strings, and report bad ones.

A decoder either returns a good value or raises `BadSample` with one of the `FATAL` reasons; it never returns a value
that would make a batch unusable. Conversions are reported by `NOTES`. `BadSamples` counts both.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.bad_samples import BadSample
from d2v_train.support.extras import need
from modeling_d2v.image_processing_data2vec import as_channels


MAX_AUDIO_SAMPLES = 2**28
"""Longest recording that is decoded, in samples of all channels together: 1 GiB, or 4.6 hours of mono at 16 kHz."""
MAX_ELONGATION = 100
"""Largest ratio of an image's sides; a narrower strip, resized by its shorter side, would fill the memory."""

# The size of a WAV file written to a pipe is unknown: writers put 0 or a number close to the largest integer there.
_UNKNOWN_RIFF_SIZE = 0x7FFF_0000


def decode_image(value: object, channels: int | None = 3, notes: list[str] | None = None) -> Any:
    """Decode an image, upright according to its EXIF orientation.

    Args:
        value: PIL image, uint8 array (H, W) or (H, W, C), encoded bytes, path, or dict with "bytes" and "path".
        channels: 3 for RGB, 1 for grey, None to keep what the image has (RGB or grey).
        notes: Takes the `NOTES` that apply.

    Returns:
        `PIL.Image.Image` of mode RGB or L.

    Raises:
        BadSample: If the value is missing, truncated or not an image, has one pixel, or an extreme size or shape.
        MissingDependencyError: If pillow is not installed.
    """
    Image, ImageOps = need("PIL.Image", "vision"), need("PIL.ImageOps", "vision")
    try:
        if isinstance(value, Image.Image):
            image = value
        elif isinstance(value, np.ndarray):
            image = Image.fromarray(value)
        else:
            image = Image.open(io.BytesIO(read_bytes(value)))
        _check_shape(*image.size)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise BadSample("non-finite", "NaN or infinite pixels")
        if channels is None:
            channels = 1 if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") else 3
        if notes is not None:
            notes.extend(_image_notes(image))
        return as_channels(image, channels)
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("too large", str(error)) from error
    except Exception as error:  # PIL raises a dozen kinds of exception on damaged files, SyntaxError among them
        # PIL has no exception of its own for truncated files, only the message of an OSError.
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise BadSample(reason, _message(error)) from error


def decode_audio(value: object, sampling_rate: int = 16_000) -> tuple[np.ndarray, list[str]]:
    """Decode a recording to mono float32 at `sampling_rate`.

    Args:
        value: Encoded bytes, path, dict with "bytes" and "path", or dict with "array" ((S,), (S, C) or (C, S)) and
            "sampling_rate".
        sampling_rate: Rate to resample to, in Hz.

    Returns:
        Samples (S,), nominally in [-1, 1], and the `NOTES` that apply.

    Raises:
        BadSample: If the value is missing, unreadable, truncated, without samples, or has NaN or infinite samples.
        MissingDependencyError: If soundfile or soxr is needed and not installed.
    """
    if isinstance(value, dict) and value.get("array") is not None:
        samples, rate = np.asarray(value["array"], dtype=np.float32), int(value["sampling_rate"])
        if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
            samples = samples.T
    else:
        samples, rate = _read_audio(read_bytes(value))
    if samples.size == 0:
        raise BadSample("empty", "no samples")
    with np.errstate(over="ignore"):
        if not np.isfinite(samples).all():
            raise BadSample("non-finite", "NaN or infinite samples")
        if not np.isfinite(np.square(samples).sum()):
            raise BadSample("non-finite", f"samples up to {np.abs(samples).max():.1e}, whose squares are infinite")

    notes = []
    if samples.ndim == 2:
        if samples.shape[1] > 1:
            notes.append("mixed down to mono")
        samples = samples.mean(axis=1)
    if rate != sampling_rate:
        notes.append("resampled")
        samples = need("soxr", "audio").resample(samples, rate, sampling_rate)
        if samples.size == 0:
            raise BadSample("empty", f"no samples left at {sampling_rate} Hz")
    if samples.min() == samples.max():
        notes.append("silent")
    return np.ascontiguousarray(samples, dtype=np.float32), notes


def decode_text(value: object) -> str:
    """Return `value` (str or UTF-8 bytes) as a string without surrounding white space.

    Raises:
        BadSample: If there is only white space, or the bytes are not UTF-8; or `value` itself, which readers of text
            files return for what they could not read.
    """
    if value is None:
        raise BadSample("empty", "no text")
    if isinstance(value, BadSample):
        raise value
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSample("not UTF-8", str(error)) from error
    if not isinstance(value, str):
        raise BadSample("unreadable", f"expected text, found {type(value).__name__}")
    value = value.strip()
    if not value:
        raise BadSample("empty", "no text")
    # Half of a surrogate pair survives in JSON escapes but no tokenizer takes it.
    return value.encode("utf-8", "replace").decode("utf-8")


def _message(error: Exception) -> str:
    """Return type and message of an exception, without the address of the buffer, which differs at each read."""
    return f"{type(error).__name__}: {re.sub(r' ?<_io.BytesIO object at [^>]*>', '', str(error))}"


def _check_shape(width: int, height: int) -> None:
    """Raise `BadSample` for an image without content, or of a shape that resizing would make huge."""
    if width * height == 1:
        raise BadSample("nothing to see", "an image of one pixel")
    if max(width, height) > MAX_ELONGATION * min(width, height):
        raise BadSample("nothing to see", f"a strip of {width} x {height} pixels")


def _image_notes(image: Any) -> list[str]:
    """Return the notes on the conversion of an image to RGB or grey."""
    deep = image.mode.startswith("I") or image.mode == "F"
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or image.info.get("transparency") is not None
    found = {"CMYK converted": image.mode == "CMYK", "reduced to 8 bits": deep, "transparency put on white": clear}
    return [note for note, applies in found.items() if applies]


def read_bytes(value: object) -> bytes:
    """Return the encoded bytes behind `value`, reading the file it names if need be."""
    path = None
    if isinstance(value, dict):
        value, path = value.get("bytes"), value.get("path")
    elif isinstance(value, (str, Path)):
        value, path = None, value
    if value is None:
        if path is None:
            raise BadSample("missing", "neither bytes nor a path")
        try:
            value = Path(path).read_bytes()
        except OSError as error:
            raise BadSample("missing", str(error)) from error
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise BadSample("unreadable", f"expected bytes, found {type(value).__name__}")
    if len(value) == 0:
        raise BadSample("empty", "a file of 0 bytes")
    return bytes(value)


def _read_audio(encoded: bytes) -> tuple[np.ndarray, int]:
    """Return samples (S, C) and their rate."""
    if encoded[:4] == b"RIFF":
        promised = int.from_bytes(encoded[4:8], "little") + 8
        if len(encoded) < promised < _UNKNOWN_RIFF_SIZE:
            raise BadSample("truncated", f"{len(encoded)} bytes where the header promises {promised}")
    soundfile = need("soundfile", "audio")
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            promised = file.frames
            if promised * file.channels > MAX_AUDIO_SAMPLES:
                raise BadSample("too large", f"{promised} samples of {file.channels} channels; cut it into pieces")
            samples = file.read(dtype="float32", always_2d=True)
            rate = file.samplerate
    except BadSample:
        raise
    except Exception as error:
        raise BadSample("unreadable", _message(error)) from error
    if 0 < len(samples) < promised < 2**62:
        raise BadSample("truncated", f"{len(samples)} samples where the header promises {promised}")
    return samples, rate
