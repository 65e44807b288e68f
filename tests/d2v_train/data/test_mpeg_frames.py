"""MP3 without a statement of its length, or with a wrong one: all frames are read."""

import io
import struct

import numpy as np
import pytest
import soundfile

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio
from d2v_train.data.mpeg_frames import corrected_mpeg, first_frame, tags_size


RANDOM = np.random.default_rng(0)
QUIET, LOUD = 1e-4 * RANDOM.normal(size=32_000), 0.3 * RANDOM.normal(size=32_000)
CORRECTED = "length in the header corrected"


def mp3(wave, rate=16_000, mode="VARIABLE"):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="MP3", bitrate_mode=mode, compression_level=0.5)
    return buffer.getvalue()


def starts(content):
    """Positions of the frames of layer III, by a reading of the standard that is independent of the product's."""
    rates = {
        3: [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        2: [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    }
    position, found = 0, []
    while position + 4 <= len(content):
        version, index = content[position + 1] >> 3 & 3, content[position + 2] >> 4
        hertz = {3: 44_100, 2: 22_050, 0: 11_025}[version] if content[position + 2] & 12 == 0 else None
        hertz = (
            hertz
            or {3: (48_000, 32_000), 2: (24_000, 16_000), 0: (12_000, 8_000)}[version][
                (content[position + 2] >> 2 & 3) - 1
            ]
        )
        samples = 1152 if version == 3 else 576
        found.append((position, samples))
        position += samples // 8 * rates[3 if version == 3 else 2][index] * 1000 // hertz
        position += content[found[-1][0] + 2] >> 1 & 1
    return found


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("parts", [(LOUD, QUIET), (QUIET, LOUD), (QUIET, LOUD, QUIET)])
def test_variable_bit_rate_without_a_xing_frame(rate, parts):
    content = mp3(np.concatenate(parts), rate)
    places = starts(content)
    samples, notes = decode_audio(content[places[1][0] :], rate)
    assert len(samples) == (len(places) - 1) * places[0][1] and CORRECTED in notes
    # It is the same recording as with the frame, which also tells the delay of the encoder.
    whole, notes = decode_audio(content, rate)
    assert CORRECTED not in notes and len(whole) == len(np.concatenate(parts))
    lag = int(np.argmax(np.correlate(samples[: len(whole) // 4], whole[: len(whole) // 8][500:], "valid"))) - 500
    assert 0 <= lag <= 2 * 1152
    np.testing.assert_allclose(samples[lag : lag + len(whole) - 600], whole[:-600], atol=1e-4)


@pytest.mark.parametrize("stereo", [False, True])
def test_constant_bit_rate_needs_no_statement(stereo):
    wave = np.stack([LOUD, QUIET], axis=1) if stereo else LOUD
    content = mp3(wave, mode="CONSTANT")
    places = starts(content)
    bare = content[places[1][0] :]
    assert corrected_mpeg(bare) == (bare, 0)
    assert len(decode_audio(bare)[0]) == (len(places) - 1) * 576


def test_tags_before_and_behind_the_frames():
    content = mp3(np.concatenate([LOUD, QUIET]))
    places = starts(content)
    bare = content[places[1][0] :]
    size = (len(places) - 1) * 576
    tag = b"ID3\x03\0\0\0\0\x02\x00" + bytes(256)
    for before in (b"", tag, tag + tag):
        for after in (b"", b"TAG" + b"a song".ljust(125), b"TAG" + bytes(125)):
            assert len(decode_audio(before + bare + after)[0]) == size
    assert first_frame(tag + bare) == len(tag) and first_frame(b"\xff\xfb no frames") is None
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0) + bytes(8)
    assert tags_size(bare + b"TAG" + bytes(125)) == 128 and tags_size(bare + ape) == 32 + 64 and not tags_size(bare)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("count", [0, 1, 50, 500, 2**32 - 1])
def test_a_wrong_count_in_the_first_frame(mode, count):
    content = mp3(np.concatenate([LOUD, QUIET]), mode=mode)
    at = content.index(b"Xing" if mode == "VARIABLE" else b"Info") + 8
    samples, notes = decode_audio(content[:at] + struct.pack(">I", count) + content[at + 4 :])
    assert len(samples) == 64_000 and notes == [CORRECTED]


def test_a_first_frame_without_a_count():
    content = mp3(np.concatenate([LOUD, QUIET]))
    at, size = content.index(b"Xing") + 4, (len(starts(content)) - 1) * 576
    samples, notes = decode_audio(content[:at] + bytes(8) + content[at + 8 :])
    assert len(samples) == size and notes == [CORRECTED]


def test_joined_files_are_read_to_the_end(capfd):
    content = mp3(np.concatenate([LOUD, QUIET]))
    for times in (2, 3):
        samples, _ = decode_audio(content * times)
        assert times * 64_000 <= len(samples) < times * 64_000 + times * 2 * 1152
        np.testing.assert_array_equal(samples[:60_000], decode_audio(content)[0][:60_000])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_file_is_truncated_if_its_first_frame_tells(share, capfd):
    content = mp3(np.concatenate([LOUD, QUIET]))
    part = content[: int(len(content) * share)]
    with pytest.raises(BadSample, match="truncated: .* frames where the first one promises"):
        decode_audio(part)
    assert capfd.readouterr().err == ""
    bare = part[starts(content)[1][0] :]
    assert 0 < len(decode_audio(bare)[0]) < 64_000, "without a statement it is as long as it is"


@pytest.mark.parametrize(
    "version, layer, samples, hertz, few, many",
    [
        (3, 1, 384, 48_000, (4, 128), (8, 256)),
        (3, 2, 1152, 48_000, (5, 80), (9, 160)),
        (2, 2, 1152, 24_000, (5, 40), (9, 80)),
    ],
)
def test_layers_i_and_ii(version, layer, samples, hertz, few, many):
    def silent(index, rate):
        header = bytes([0xFF, 0xE0 | version << 3 | (4 - layer) << 1 | 1, index << 4 | 4, 0xC0])
        return header.ljust(12_000 * rate // hertz * 4 if layer == 1 else 144_000 * rate // hertz, b"\0")

    decoded, notes = decode_audio(silent(*many) * 20 + silent(*few) * 80, hertz)
    assert len(decoded) == 100 * samples and notes == [CORRECTED, "silent"]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("size", [100, 900, 3_000, 50_000])
def test_what_lies_between_or_behind_frames_is_passed_over(mode, size, capfd):
    content = mp3(np.concatenate([LOUD, QUIET]), mode=mode)
    bare = content[starts(content)[1][0] :]
    once, twice = decode_audio(bare)[0], decode_audio(bare + bare)[0]
    noise = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8).tobytes()
    for other in (bytes(size), b"\xff" * size, noise):
        samples, notes = decode_audio(bare + other + bare)
        np.testing.assert_array_equal(samples, twice)
        assert notes == [CORRECTED]
        np.testing.assert_array_equal(decode_audio(bare + other)[0], once)
        assert len(decode_audio(content + other)[0]) == 64_000
    assert capfd.readouterr().err == ""


def test_joined_files_with_large_tags():
    size = 300_000  # a picture of the cover
    tag = b"ID3\x03\0\0" + bytes([size >> 21, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)
    content = mp3(np.concatenate([LOUD, QUIET]))
    samples, _ = decode_audio((tag + content + b"TAG" + bytes(125)) * 2)
    assert 128_000 <= len(samples) < 132_000


def test_a_hole_in_a_file_loses_its_frames_alone():
    content = mp3(np.concatenate([LOUD, QUIET]))
    for first, last in ((2_000, 2_600), (2_000, 5_000)):
        samples, notes = decode_audio(content[:first] + bytes(last - first) + content[last:])
        assert 64_000 * 0.5 < len(samples) < 64_000 and notes == [CORRECTED]
