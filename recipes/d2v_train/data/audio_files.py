"""Samples of encoded recordings, read until the decoder ends."""

from __future__ import annotations

import io
import re
from functools import cache
from typing import Any

import numpy as np

from d2v_train.data.audio_headers import corrected, flac_samples, ogg_links, without_padding
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.file_formats import TO_WAV, conversion_advice
from d2v_train.support.extras import need


BLOCK = 2**22
"""Samples of all channels that are read at once: 16 MiB."""
_ENDLESS = 2**62
"""Least number of samples by which libsndfile means that it does not know."""
_ADDRESS = re.compile(r" ?<[\w.]+ object at [^>]*>")
# Formats for many codecs, of which libsndfile reads some.
_CONTAINERS = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"caff", b"OggS")
_LOST_SYNC = "flac decoder lost sync"


def message_of(error: Exception) -> str:
    """Return type and message of an exception, without the address of the buffer, which differs at each read."""
    return f"{type(error).__name__}: {_ADDRESS.sub('', str(error))}"


def read_recording(encoded: bytes, limit: int) -> tuple[np.ndarray, int, bool]:
    """Decode a recording of any format that libsndfile reads.

    Args:
        encoded: The file.
        limit: Most samples of all channels together.

    Returns:
        Samples (S, C), float32, their rate in Hz, and whether the header did not tell their number.

    Raises:
        BadSample: If it is unreadable, truncated or too long.
        MissingDependencyError: If soundfile is not installed.
    """
    need("soundfile", "audio")
    whole, foreign = corrected(encoded)
    links = ogg_links(whole) if whole[:4] == b"OggS" else [whole]
    expected, parts, rates = flac_samples(encoded), [], set()
    for link in links:
        samples, rate = _read(link, limit - sum(part.size for part in parts), expected)
        parts.append(samples)
        rates.add((rate, samples.shape[1]))
    if len(rates) > 1:
        raise BadSample("unreadable", f"parts of {len(rates)} sampling rates or numbers of channels in one file")
    samples = (parts[0] if len(parts) == 1 else np.concatenate(parts))[foreign:]
    misled = len(links) > 1 or (expected != len(samples) if encoded[:4] == b"fLaC" else whole is not encoded)
    return samples[: without_padding(whole, len(samples))], rate, misled


def _read(encoded: bytes, limit: int, expected: int | None) -> tuple[np.ndarray, int]:
    """Return samples (S, C) and their rate.

    Args:
        encoded: A file whose header does not hide any of its samples.
        limit: Most samples of all channels together.
        expected: Probable number of samples of a channel, for files whose header has none.
    """
    try:
        file = _stream_class()(_Content(encoded))
    except Exception as error:
        message = message_of(error)
        if encoded[:4] in _CONTAINERS:
            message += f"; if another program plays it, {TO_WAV}"
        raise BadSample("unreadable", conversion_advice(encoded, "audio") or message) from error
    with file:
        promised, channels = file.frames, file.channels
        if promised < _ENDLESS and promised * channels > limit:
            raise _too_long(limit)
        blocks, count, size = [], 0, promised if promised < _ENDLESS else expected or BLOCK // channels
        while count < promised:
            try:
                block = file.read(max(1, min(size, BLOCK // channels)), dtype="float32", always_2d=True)
            except Exception as error:
                if expected is not None and count >= expected:
                    break  # something that is not audio behind the last frame
                reason = "truncated" if _LOST_SYNC in str(error) else "unreadable"
                raise BadSample(reason, message_of(error)) from error
            if len(block) == 0:
                break
            blocks.append(block)
            count += len(block)
            if count * channels > limit:
                raise _too_long(limit)
            size = promised - count if promised < _ENDLESS else BLOCK // (16 * channels)
        if not blocks:
            return np.zeros((0, channels), np.float32), file.samplerate
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), file.samplerate


class _Content(io.BytesIO):
    """A file in memory that stays where it is when a damaged header sends its reader elsewhere."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _too_long(limit: int) -> BadSample:
    return BadSample("too large", f"more than {limit} samples of all channels; cut it into pieces")


@cache
def _stream_class() -> Any:
    """Return soundfile's class without seeking: after each read it seeks, which some codecs cannot."""

    class Stream(need("soundfile", "audio").SoundFile):
        def seekable(self) -> bool:
            return False

    return Stream
