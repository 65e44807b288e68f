"""Lengths in the headers of recordings: estimates, corrected where a file holds more, and promises that it breaks.

Libsndfile reads no further than a header says. Writers to a pipe cannot know the length, others are killed before they
write it, and MP3 has none without a Xing frame. `corrected` therefore returns the file with the length that is there.

A file counts as truncated, not as one with a wrong header, where two statements agree that more was written:

    WAV, RF64, AIFF, W64   the size of the file and that of its samples both reach beyond the end
    MP3                    the Xing frame promises more frames and more bytes, or the last frame is cut
    Ogg                    the last page is cut
    AU, CAF, NIST          the only statement of the length reaches beyond the end
    FLAC                   the decoder fails before the promised end (`audio_files.py`)

A shortfall of up to `SLACK` bytes is a writer's mistake, and sizes from `UNKNOWN` on are those of writers to a pipe.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.mpeg_frames import corrected_mpeg, tags_size


SLACK = 64
"""Bytes that a file may lack without being called truncated: headers that were counted as samples, missing padding."""
UNKNOWN = 0x7FFF_0000
"""Least size in 32 bits that writers to a pipe use for "unknown"."""
_UNKNOWN_64 = 1 << 60
# What may follow the samples outside of chunks; anything else is taken for samples.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"RIFF", b"FORM")
# MS ADPCM, IMA ADPCM, G.723, GSM 6.10, NMS ADPCM, G.721
_BLOCK_CODECS = (0x0002, 0x0011, 0x0014, 0x0031, 0x0038, 0x0040)
_LONGEST_BLOCK = 4096
_W64_SAMPLES = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


class Chunk(NamedTuple):
    """A chunk of a RIFF or IFF file."""

    name: bytes
    start: int
    """Position of its content."""
    size: int
    """Size of its content, as it is written."""


def corrected(encoded: bytes) -> tuple[bytes, int]:
    """Correct the header of an encoded recording that hides some of its samples.

    Returns:
        The recording, itself if nothing is wrong, and how many samples at its start do not belong to it.

    Raises:
        BadSample: If the file is truncated.
    """
    if encoded[:3] == b"ID3" or (len(encoded) > 4 and encoded[0] == 0xFF and encoded[1] & 0xE0 == 0xE0):
        return corrected_mpeg(encoded)
    magic = encoded[:4]
    correct = _CORRECTIONS.get(magic)
    return (encoded if correct is None else correct(encoded)), 0


def hides_samples(encoded: bytes | mmap.mmap) -> bool:
    """Return whether a recording has, or may have, more samples than its header tells libsndfile."""
    if encoded[:4] == b"fLaC":
        promised = flac_samples(encoded)
        frame_bytes = (((encoded[20] >> 1) & 7) + 1) * (((encoded[20] & 1) << 4 | encoded[21] >> 4) // 8 + 1)
        return promised is None or len(encoded) > 2**20 + 2 * promised * frame_bytes
    try:
        return corrected(encoded)[0] is not encoded or (encoded[:4] == b"OggS" and len(ogg_links(encoded)) > 1)
    except BadSample:
        return False


def ogg_links(encoded: bytes) -> list[bytes]:
    """Return the links of a chained Ogg file, each a file of its own; libsndfile reads the first one alone."""
    starts = [match.start() for match in re.finditer(rb"OggS\x00[\x02\x03\x06\x07]", encoded)]
    first = [0]
    for start in starts[1:]:
        before = encoded.rfind(b"OggS\x00", 0, start)
        # Streams that are multiplexed all begin at the start of a link.
        if not encoded[before + 5] & 2:
            first.append(start)
    return [encoded[start:end] for start, end in zip(first, [*first[1:], len(encoded)], strict=True)]


def _chunks(encoded: bytes, order: str) -> Iterator[Chunk]:
    """Yield the chunks of a RIFF or IFF file, up to one that reaches beyond the end."""
    position = 12
    while position + 8 <= len(encoded):
        name, size = struct.unpack_from(f"{order}4sI", encoded, position)
        yield Chunk(name, position + 8, size)
        position += 8 + size + size % 2


def _chunk(encoded: bytes, order: str, name: bytes) -> Chunk | None:
    return next((chunk for chunk in _chunks(encoded, order) if chunk.name == name), None)


def _with(encoded: bytes, *fields: tuple[str, int, int]) -> bytes:
    """Return `encoded` with other values in its header, given as (format, position, value)."""
    changed = bytearray(encoded)
    for layout, position, value in fields:
        struct.pack_into(layout, changed, position, value)
    return bytes(changed)


def _truncated(found: int, promised: int) -> BadSample:
    return BadSample("truncated", f"{found} bytes where the header promises {promised}")


def _is_more(encoded: bytes, end: int, order: str) -> bool:
    """Return whether the bytes from `end` on are samples: neither chunks nor tags nor padding."""
    rest = encoded[end : end + 4096]
    if len(encoded) - end <= SLACK or not rest.strip(b"\0"):
        return False
    for start in {end, end + end % 2}:  # the padding of an odd size may be missing
        name = encoded[start : start + 4]
        if name.startswith(_TAGS):
            return False
        size = int.from_bytes(encoded[start + 4 : start + 8], "little" if order == "<" else "big")
        if re.fullmatch(rb"[ -~]{4}", name) and start + 8 + size <= len(encoded) + SLACK:
            return False
    return True


def _samples_size(encoded: bytes, start: int, size: int, whole: int, order: str, unknown: int = UNKNOWN) -> int:
    """Return the size of the samples, which start at `start`.

    Args:
        encoded: The file.
        start: Position of the samples.
        size: Their size according to the header.
        whole: Size of the file according to the header.
        order: Byte order of the sizes of chunks.
        unknown: Least size that stands for "unknown".

    Raises:
        BadSample: If the file is truncated.
    """
    room = len(encoded) - start
    if size >= unknown or (size == 0 and _is_more(encoded, start, order)):
        return room
    if size > room:
        if size - room > SLACK and whole - SLACK > len(encoded) and whole < unknown:
            raise _truncated(len(encoded), whole)
        return room
    return room if _is_more(encoded, start + size, order) else size


def _corrected_wav(encoded: bytes) -> bytes:
    order = "<" if encoded[:4] == b"RIFF" else ">"
    samples = _chunk(encoded, order, b"data")
    if samples is None:
        return encoded
    whole = struct.unpack_from(f"{order}I", encoded, 4)[0] + 8
    size = _samples_size(encoded, samples.start, samples.size, whole, order)
    if size == samples.size or size >= 1 << 32:
        return encoded
    return _with(encoded, (f"{order}I", 4, samples.start + size - 8), (f"{order}I", samples.start - 4, size))


def _corrected_rf64(encoded: bytes) -> bytes:
    renamed = b"RF64" + encoded[4:] if encoded[:4] == b"BW64" else encoded
    sizes = _chunk(encoded, "<", b"ds64")
    samples = next((chunk for chunk in _chunks(encoded, "<") if chunk.name == b"data"), None)
    if sizes is None or samples is None or sizes.size < 24:
        return renamed
    whole, promised = struct.unpack_from("<QQ", encoded, sizes.start)
    size = _samples_size(encoded, samples.start, promised, whole + 8, "<", _UNKNOWN_64)
    if size == promised:
        return renamed
    return _with(renamed, ("<Q", sizes.start, samples.start + size - 8), ("<Q", sizes.start + 8, size))


def _corrected_aiff(encoded: bytes) -> bytes:
    samples = _chunk(encoded, ">", b"SSND") if encoded[8:12] in (b"AIFF", b"AIFC") else None
    if samples is None or samples.start + 8 > len(encoded):
        return encoded
    whole = struct.unpack_from(">I", encoded, 4)[0] + 8
    # Offset and block size come before the samples, and count as theirs.
    size = _samples_size(encoded, samples.start, samples.size if samples.size > 8 else 0, whole, ">")
    return encoded if size == samples.size else _with(encoded, (">I", samples.start - 4, size))


def _corrected_w64(encoded: bytes) -> bytes:
    # Sizes include the 24 bytes of a chunk's name and size.
    found = encoded.find(_W64_SAMPLES, 40, 1 << 20)
    if found < 0 or found + 24 > len(encoded):
        return encoded
    whole, promised = struct.unpack_from("<Q", encoded, 16)[0], struct.unpack_from("<Q", encoded, found + 16)[0]
    room = len(encoded) - found
    if SLACK < promised - room and promised < _UNKNOWN_64 and len(encoded) + SLACK < whole < _UNKNOWN_64:
        raise _truncated(len(encoded), whole)
    return encoded if 24 < promised <= room else _with(encoded, ("<Q", found + 16, room))


def _corrected_au(encoded: bytes) -> bytes:
    order = ">" if encoded[:4] == b".snd" else "<"
    if len(encoded) < 24:
        return encoded
    start, size = struct.unpack_from(f"{order}II", encoded, 4)
    room = len(encoded) - start
    if room + SLACK < size < UNKNOWN:
        raise _truncated(room, size)
    return encoded if size == room else _with(encoded, (f"{order}I", 8, 0xFFFF_FFFF))


def _corrected_caf(encoded: bytes) -> bytes:
    position = 8
    while position + 12 <= len(encoded):
        name, size = struct.unpack_from(">4sq", encoded, position)
        room = len(encoded) - position - 12
        if name == b"data":
            if room + SLACK < size < _UNKNOWN_64:
                raise _truncated(room, size)
            unknown = size <= 4 or size > room or _is_more_caf(encoded, position)
            return _with(encoded, (">q", position + 4, room)) if unknown else encoded
        position += 12 + max(size, 0)
    return encoded


def _is_more_caf(encoded: bytes, position: int) -> bool:
    """Return whether samples go on behind the end of the chunk of samples at `position`."""
    end = position + 12 + struct.unpack_from(">q", encoded, position + 4)[0]
    if len(encoded) - end <= SLACK or not encoded[end : end + 4096].strip(b"\0"):
        return False
    name, size = struct.unpack_from(">4sq", encoded, end)
    return not (re.fullmatch(rb"[ -~]{4}", name) and 0 <= size <= len(encoded) - end - 12 + SLACK)


def _corrected_flac(encoded: bytes) -> bytes:
    """Return the file with an unknown number of samples, so that the decoder goes on to its end."""
    if len(encoded) < 26 or encoded[4] & 0x7F != 0:
        return encoded
    properties = int.from_bytes(encoded[18:26], "big")
    end = len(encoded) - tags_size(encoded)
    return encoded[:18] + (properties >> 36 << 36).to_bytes(8, "big") + encoded[26:end]


def flac_samples(encoded: bytes) -> int | None:
    """Return the samples that the header of a FLAC file promises; None for other files and unknown numbers."""
    if encoded[:4] != b"fLaC" or len(encoded) < 26:
        return None
    return int.from_bytes(encoded[18:26], "big") & ((1 << 36) - 1) or None


def without_padding(encoded: bytes, samples: int) -> int:
    """Return how many of the decoded samples are not padding: codecs of WAV fill their last block.

    Args:
        encoded: The file.
        samples: Samples of a channel that were decoded.
    """
    if encoded[:4] != b"RIFF":
        return samples
    layout, count = _chunk(encoded, "<", b"fmt "), _chunk(encoded, "<", b"fact")
    if layout is None or count is None or count.start + 4 > len(encoded):
        return samples
    codec, stated = (
        struct.unpack_from("<H", encoded, layout.start)[0],
        struct.unpack_from("<I", encoded, count.start)[0],
    )
    return stated if codec in _BLOCK_CODECS and 0 < samples - stated < _LONGEST_BLOCK and stated else samples


def _checked_nist(encoded: bytes) -> bytes:
    header = encoded[:1024]
    fields = {name: re.search(rb"\n%s -i (\d+)" % name, header) for name in (b"sample_count", b"sample_n_bytes")}
    size = re.match(rb"NIST_1A\s+(\d+)\s", header)
    if size is None or None in fields.values() or b"shorten" in header:
        return encoded
    promised = int(fields[b"sample_count"][1]) * int(fields[b"sample_n_bytes"][1])
    room = len(encoded) - int(size[1])
    if room + SLACK < promised:
        raise _truncated(room, promised)
    return encoded


def _checked_ogg(encoded: bytes) -> bytes:
    page = encoded.rfind(b"OggS\x00")
    if page < 0:
        return encoded
    segments = encoded[page + 26] if page + 26 < len(encoded) else 0
    table = encoded[page + 27 : page + 27 + segments]
    end = page + 27 + segments + sum(table)
    if page + 27 > len(encoded) or len(table) < segments or end > len(encoded):
        raise BadSample("truncated", f"the last page ends at byte {end} of {len(encoded)}")
    return encoded


_CORRECTIONS = {
    b"RIFF": _corrected_wav,
    b"RIFX": _corrected_wav,
    b"RF64": _corrected_rf64,
    b"BW64": _corrected_rf64,
    b"FORM": _corrected_aiff,
    b"riff": _corrected_w64,
    b".snd": _corrected_au,
    b"dns.": _corrected_au,
    b"caff": _corrected_caf,
    b"fLaC": _corrected_flac,
    b"NIST": _checked_nist,
    b"OggS": _checked_ogg,
}
"""Functions from a file to the file with its true length, by the first four bytes."""
