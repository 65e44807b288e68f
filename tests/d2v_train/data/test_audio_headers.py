"""Lengths in headers of recordings are estimates: what is there is read, and what is cut is told apart."""

import io
import re
import struct

import numpy as np
import pytest
import soundfile

from d2v_train.data.audio_headers import corrected, hides_samples
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio


WAVE = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
CORRECTED = ["length in the header corrected"]


def encoded(container, subtype=None, wave=WAVE, **settings):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16_000, format=container, subtype=subtype, **settings)
    return buffer.getvalue()


def changed(content, *fields):
    """Content with other numbers, as (format, position, value)."""
    content = bytearray(content)
    for layout, position, value in fields:
        struct.pack_into(layout, content, position, value)
    return bytes(content)


def assert_all_is_read(content, notes=CORRECTED, length=16_000):
    samples, found = decode_audio(content)
    assert len(samples) == length and found == notes
    np.testing.assert_allclose(samples[:16_000], WAVE, atol=2e-4)


def assert_truncated(content):
    with pytest.raises(BadSample) as error:
        decode_audio(content)
    assert error.value.reason == "truncated"


WAV = encoded("WAV")
SIZES = [0, 1, 8_000, 2 * len(WAV), 0x7FFF_FFFF - 36, 0x8000_0000, 0xFFFF_FFFF]


@pytest.mark.parametrize("order, content", [("<", WAV), (">", encoded("WAV", endian="BIG"))])
@pytest.mark.parametrize("size", SIZES)
def test_wav_with_a_wrong_size_of_its_samples(order, content, size):
    assert_all_is_read(changed(content, (f"{order}I", content.index(b"data") + 4, size)))


@pytest.mark.parametrize("size", [*SIZES, len(WAV) - 7, len(WAV) - 9])
def test_wav_with_a_wrong_size_of_the_file(size):
    assert_all_is_read(changed(WAV, ("<I", 4, size)), notes=[])


@pytest.mark.parametrize(
    "whole, samples", [(0, 0), (2**32 - 1, 2**32 - 1), (36 + 8_000, 8_000), (0x7FFF_FFFF, 0), (36, 0)]
)
def test_wav_from_a_pipe_or_an_interrupted_writer(whole, samples):
    assert_all_is_read(changed(WAV, ("<I", 4, whole), ("<I", 40, samples)))


@pytest.mark.parametrize("excess", [1, 2, 8, 44])
def test_writers_that_count_their_header_as_samples(excess):
    assert_all_is_read(changed(WAV, ("<I", 4, len(WAV) - 8 + excess), ("<I", 40, 32_000 + excess)))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
@pytest.mark.parametrize(
    "container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3"]
)
def test_a_file_that_is_cut_is_truncated(container, share):
    content = encoded(container, wave=np.tile(WAVE, 4))
    assert_truncated(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "after",
    [
        b"LIST" + struct.pack("<I", 200) + bytes(200),
        b"id3 " + struct.pack("<I", 100) + b"ID3\x03" + bytes(range(96)),
        b"ID3\x03\0\0\0\0\x01\0" + bytes(range(128)),
        b"TAG" + b"a song".ljust(125),
        bytes(4096),
    ],
)
def test_what_follows_the_samples_is_not_read_as_samples(after):
    assert_all_is_read(WAV + after, notes=[])
    # A chunk of odd size without its padding.
    odd = encoded("WAV", "PCM_U8", WAVE[:15_999])
    assert len(decode_audio(odd[: 44 + 15_999] + after)[0]) == 15_999


def test_a_chunk_before_the_samples_may_be_of_any_size():
    for size in (1, 2, 4_000):
        chunk = b"LIST" + struct.pack("<I", size) + bytes(size + size % 2)
        assert_all_is_read(WAV[:36] + chunk + WAV[36:], notes=[])
        assert_all_is_read(WAV[:36] + chunk + changed(WAV, ("<I", 40, 0))[36:])


@pytest.mark.parametrize("size", [0, 16_000, 2**40, 2**63 - 1, 2**64 - 1])
def test_rf64_with_a_wrong_size(size):
    content = encoded("RF64")
    sizes = content.index(b"ds64") + 8
    assert_all_is_read(changed(content, ("<Q", sizes + 8, size)))
    assert_all_is_read(changed(b"BW64" + content[4:], ("<Q", sizes + 8, size)))


def test_wave_of_broadcasters_is_read():
    assert_all_is_read(b"BW64" + encoded("RF64")[4:])


@pytest.mark.parametrize("size", [0, 8, 16_000, 2**20, 2**31 - 1, 2**32 - 1])
def test_aiff_with_a_wrong_size(size):
    content = encoded("AIFF")
    assert_all_is_read(changed(content, (">I", content.index(b"SSND") + 4, size)))
    for count in (0, 8_000, 2**31 - 1):
        assert_all_is_read(changed(content, (">I", content.index(b"COMM") + 10, count)), notes=[])


@pytest.mark.parametrize("order, content", [(">", encoded("AU")), ("<", encoded("AU", endian="LITTLE"))])
def test_au_of_unknown_or_wrong_size(order, content):
    for size in (0, 1, 16_000, 32_001, 2**31 - 1, 2**32 - 1):
        assert_all_is_read(changed(content, (f"{order}I", 8, size)))


@pytest.mark.parametrize("size", [-1, 0, 4, 16_004, 2**62])
def test_caf_of_unknown_or_wrong_size(size):
    content = encoded("CAF")
    assert_all_is_read(changed(content, (">q", content.index(b"data") + 4, size)))


@pytest.mark.parametrize("size", [0, 2**40, 2**63 - 1, 2**64 - 1])
def test_w64_of_unknown_or_wrong_size(size):
    content = encoded("W64")
    assert_all_is_read(changed(content, ("<Q", content.index(b"data\xf3") + 16, size)))


@pytest.mark.parametrize("count", [b"0", b"8000"])
def test_sphere_with_a_wrong_count(count):
    content = encoded("NIST")
    assert_all_is_read(content.replace(b"-i 16000\nend", b"-i " + count.ljust(5) + b"\nend"), notes=[])


def flac_with(content, total):
    properties = int.from_bytes(content[18:26], "big")
    return content[:18] + (properties >> 36 << 36 | total).to_bytes(8, "big") + content[26:]


@pytest.mark.parametrize("total", [0, 1, 4_096, 15_999, 16_001, 10**6, 2**36 - 1])
@pytest.mark.parametrize("after", [b"", b"TAG" + b"a song".ljust(125)])
def test_flac_from_a_pipe_or_with_a_wrong_length(total, after):
    content = encoded("FLAC")
    assert_all_is_read(flac_with(content, total) + after)
    assert_all_is_read(content + after + bytes(range(256)) * 8, notes=[])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_of_several_links_or_without_an_end(subtype):
    content = encoded("OGG", subtype, np.tile(WAVE, 4))
    samples, notes = decode_audio(content * 3)
    assert len(samples) == 3 * 64_000 and notes == CORRECTED
    once = decode_audio(content)[0]
    np.testing.assert_array_equal(samples[128_000:], once)
    # A stream that was cut between two pages has no end, and is not called truncated.
    last = [match.start() for match in re.finditer(b"OggS\x00", content)][-1]
    assert 40_000 < len(decode_audio(content[:last])[0]) < 64_000
    assert len(decode_audio(content + bytes(500))[0]) == 64_000


def test_links_of_different_rates_are_not_one_recording():
    other = io.BytesIO()
    soundfile.write(other, WAVE, 8_000, format="OGG")
    with pytest.raises(BadSample, match="sampling rates"):
        decode_audio(encoded("OGG") + other.getvalue())


@pytest.mark.parametrize("container", ["WAV", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "OGG", "MP3"])
def test_a_right_header_is_left_alone(container):
    content = encoded(container)
    assert corrected(content)[0] is content and not hides_samples(content)


def test_headers_that_hide_samples_are_told():
    assert hides_samples(changed(WAV, ("<I", 40, 0))) and hides_samples(flac_with(encoded("FLAC"), 0))
    assert hides_samples(encoded("OGG") * 2) and hides_samples(flac_with(encoded("FLAC", wave=np.tile(WAVE, 70)), 1))
    assert not hides_samples(encoded("FLAC")) and not hides_samples(encoded("OGG")) and not hides_samples(b"RIFF")


@pytest.mark.parametrize("container", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC", "OGG", "MP3"])
def test_damaged_headers_never_raise_anything_else(container):
    content, random = encoded(container, wave=WAVE[:4_000]), np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content[: random.integers(1, 200)] if random.random() < 0.3 else content)
        for position in random.integers(0, min(len(damaged), 120), 3):
            damaged[position] = random.integers(256)
        try:
            decode_audio(bytes(damaged))
        except BadSample:
            pass
