"""Decode stored values (bytes, paths, arrays) into PIL images, 16 kHz waveforms and strings, and report bad ones.

A decoder either returns a good value or raises `BadSample` with one of the `FATAL` reasons; it never returns a value
that would make a batch unusable. Conversions are reported by `NOTES`. `BadSamples` counts both. What decodes is used:
names and headers of files are hints, their content decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.audio_files import message_of, read_recording
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.image_files import check_shape, open_picture, pixels_of, upright
from d2v_train.data.tables import AS_FOUND
from d2v_train.support.extras import need
from modeling_d2v.image_processing_data2vec import as_channels, to_eight_bits
from modeling_d2v.processing_data2vec import CANCELLED


MAX_AUDIO_SAMPLES = 2**28
"""Longest recording that is decoded, in samples of all channels together: 1 GiB, or 4.6 hours of mono at 16 kHz."""


def decode_image(
    value: object,
    channels: int | None = 3,
    notes: list[str] | None = None,
    *,
    value_range: Sequence[float] | None = None,
    max_pixels: int = AS_FOUND.max_pixels,
) -> Any:
    """Decode an image, upright according to its EXIF orientation.

    Args:
        value: PIL image, array or nested lists of pixels (H, W), (H, W, C) or (C, H, W), encoded bytes, path, or dict
            with "bytes" and "path".
        channels: 3 for RGB, 1 for grey, None to keep what the image has (RGB or grey).
        notes: Takes the `NOTES` that apply.
        value_range: Values that become black and white in images of more than 8 bits and of floats; None takes those
            of each image, see `to_eight_bits`.
        max_pixels: Most pixels to decode. Larger JPEGs are decoded at a half, quarter or eighth of their size.

    Returns:
        `PIL.Image.Image` of mode RGB or L.

    Raises:
        BadSample: If the value is missing, truncated or not an image, has one pixel, or an extreme size or shape.
        MissingDependencyError: If pillow is not installed.
    """
    Image = need("PIL.Image", "vision")
    notes = [] if notes is None else notes
    try:
        if isinstance(value, Image.Image):
            check_shape(*value.size)
            value.load()
            image = upright(value, notes)
        elif isinstance(value, np.ndarray | list | tuple):
            image = _image_of_pixels(value, value_range, notes)
        else:
            image = open_picture(read_bytes(value), max_pixels, notes)
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise BadSample("non-finite", "NaN or infinite pixels")
        if channels is None:
            channels = 1 if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") else 3
        notes.extend(_image_notes(image, value_range))
        return as_channels(image, channels, value_range)
    except BadSample:
        raise
    except Exception as error:
        raise BadSample("unreadable", message_of(error)) from error


def decode_audio(
    value: object, sampling_rate: int = 16_000, array_rate: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """Decode a recording to mono float32 at `sampling_rate`.

    Channels are mixed by their mean. Silent ones are left out, and where the mean is silent because channels are in
    opposite phase, the loudest one is taken alone.

    Args:
        value: Encoded bytes, path, dict with "bytes" and "path", or dict with "array", samples (S,), (S, C) or (C, S)
            as array or lists, and "sampling_rate". Arrays of whole numbers are scaled by their type, lists of them as
            16 bits, or 32 if they do not fit.
        sampling_rate: Rate to resample to, in Hz.
        array_rate: Rate of arrays without "sampling_rate".

    Returns:
        Samples (S,), nominally in [-1, 1], and the `NOTES` that apply.

    Raises:
        BadSample: If the value is missing, unreadable, truncated, without samples, or has NaN or infinite samples.
        MissingDependencyError: If soundfile or soxr is needed and not installed.
    """
    notes: list[str] = []
    if isinstance(value, np.ndarray | list | tuple):
        value = {"array": value}
    if isinstance(value, dict) and value.get("array") is not None:
        samples, rate = _samples_of_array(value, array_rate, notes)
    else:
        samples, rate, misled = read_recording(read_bytes(value), MAX_AUDIO_SAMPLES)
        if misled:
            notes.append("length in the header corrected")
    if samples.size == 0:
        raise BadSample("empty", "no samples")
    with np.errstate(over="ignore"):
        if not np.isfinite(samples).all():
            raise BadSample("non-finite", "NaN or infinite samples")
        if not np.isfinite(np.square(samples).sum()):
            raise BadSample("non-finite", f"samples up to {np.abs(samples).max():.1e}, whose squares are infinite")

    if samples.ndim == 2:
        samples = _mixed(samples, notes)
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


def _image_of_pixels(value: Any, value_range: Sequence[float] | None, notes: list[str]) -> Any:
    """Return the image of an array or of nested lists of pixels."""
    pixels = pixels_of(value, notes)
    check_shape(pixels.shape[1], pixels.shape[0])
    levels = to_eight_bits(pixels, value_range)
    if pixels.dtype != np.uint8 and not np.array_equal(levels, pixels):
        notes.append(_depth_note(value_range))
    return need("PIL.Image", "vision").fromarray(levels)


def _image_notes(image: Any, value_range: Sequence[float] | None) -> list[str]:
    """Return the notes on the conversion of an image to RGB or grey."""
    deep = image.mode.startswith("I") or image.mode == "F"
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or image.info.get("transparency") is not None
    found = {
        "CMYK converted": image.mode == "CMYK",
        _depth_note(value_range): deep,
        "transparency put on white": clear,
    }
    return [note for note, applies in found.items() if applies]


def _depth_note(value_range: Sequence[float] | None) -> str:
    return "reduced to 8 bits" if value_range is None else "reduced to 8 bits by value_range"


def _samples_of_array(value: dict[str, Any], array_rate: int | None, notes: list[str]) -> tuple[np.ndarray, int]:
    """Return samples (S,) or (S, C), float32, and their rate, of a dict with "array"."""
    rate = value.get("sampling_rate") or array_rate
    if rate is None:
        raise BadSample(
            "missing", "the sampling rate of an array of samples; set the option sampling_rate of its dataset"
        )
    samples = value["array"]
    typed = isinstance(samples, np.ndarray) and samples.dtype != object
    try:
        samples = np.asarray(samples)
        if samples.dtype == object and samples.ndim == 1:
            samples = np.stack([np.asarray(channel) for channel in samples]) if len(samples) else samples.astype(float)
    except ValueError as error:
        raise BadSample("unreadable", f"channels of different lengths: {error}") from error
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise BadSample("unreadable", f"an array of shape {samples.shape} and type {samples.dtype} is not a recording")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.dtype.kind != "f" and samples.size:
        notes.append("scaled to [-1, 1]")
        bits = 8 * samples.itemsize
        if not typed or bits == 64:
            bits = 16 if -(2**15) <= samples.min() and samples.max() < 2**15 else 32
        middle = 2.0 ** (bits - 1) if samples.dtype.kind == "u" and typed else 0.0
        samples = (samples - middle) / 2.0 ** (bits - 1)
    return samples.astype(np.float32, copy=False), int(rate)


def _mixed(samples: np.ndarray, notes: list[str]) -> np.ndarray:
    """Return the mean (S,) of the channels (S, C) that hold sound, or one of them where they cancel."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    channels = np.ascontiguousarray(samples.T)
    sounding = channels.min(axis=1) != channels.max(axis=1)
    if sounding.any() and not sounding.all():
        notes.append("silent channels left out")
        channels = channels[sounding]
    mixed = channels.mean(axis=0)
    powers = [np.dot(channel, channel) for channel in channels]
    if len(channels) > 1 and np.dot(mixed, mixed) < CANCELLED * max(powers):
        notes.append("channels in opposite phase: one taken")
        return channels[int(np.argmax(powers))]
    notes.append("mixed down to mono")
    return mixed


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
