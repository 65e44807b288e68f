"""Every format and codec that libsndfile writes is read, in blocks and within a bound."""

import io
import os

import numpy as np
import pytest
import soundfile

from d2v_train.data import audio_files
from d2v_train.data.audio_files import message_of, read_recording
from d2v_train.data.bad_samples import BadSample


WAVE = 0.3 * np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000)
# Without a header; in two files, of which libsndfile writes one into the current folder; without a writer.
NOT_WRITTEN = {("RAW", None), ("SD2", None), ("MP3", "MPEG_LAYER_I"), ("MP3", "MPEG_LAYER_II"), ("AIFF", "DWVW_12"),
               ("WAV", "MPEG_LAYER_III")}  # fmt: skip
CODECS = [
    (container, subtype)
    for container in soundfile.available_formats()
    for subtype in soundfile.available_subtypes(container)
    if not {(container, None), (container, subtype)} & NOT_WRITTEN
]


def encoded(container, subtype=None, wave=WAVE):
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, 16_000, format=container, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("container, subtype", CODECS)
def test_every_codec_is_read(container, subtype):
    samples, rate, misled = read_recording(encoded(container, subtype), 2**28)
    # Some codecs pad the last block; containers of trackers have a rate of their own.
    assert 16_000 <= len(samples) <= 16_300 and samples.shape[1] == 1 and samples.dtype == np.float32
    assert not misled and (rate == 16_000 or container in ("XI", "WVE", "MAT4", "VOC"))
    if np.abs(samples[4_000:12_000]).max() > 0:
        likeness = np.corrcoef(samples[4_000:12_000, 0], WAVE[4_000:12_000])[0, 1]
        shifted = max(
            abs(np.corrcoef(samples[4_000 + s : 12_000 + s, 0], WAVE[4_000:12_000])[0, 1]) for s in range(80)
        )
        assert max(abs(likeness), shifted) > 0.98


@pytest.mark.parametrize("subtype", ["MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_24", "NMS_ADPCM_32"])
@pytest.mark.parametrize("length", [100, 15_999, 16_000])
def test_the_padding_of_telephone_codecs_is_left_out(subtype, length):
    content = encoded("WAV", subtype, WAVE[:length])
    samples, _, _ = read_recording(content, 2**28)
    assert len(samples) == length
    # A count that cannot be that of the last block is not believed.
    at = content.index(b"fact") + 8
    for count in (0, 2**32 - 1):
        found = read_recording(content[:at] + count.to_bytes(4, "little") + content[at + 4 :], 2**28)[0]
        assert length <= len(found) < length + 1_100


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "FLOAT"])
def test_a_count_means_nothing_to_codecs_without_blocks(subtype):
    content = encoded("WAV", subtype)
    at = content.index(b"fact") + 8
    assert len(read_recording(content[:at] + bytes([1, 62, 0, 0]) + content[at + 4 :], 2**28)[0]) == 16_000


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "CAF"])
def test_blocks_are_the_whole(container, monkeypatch):
    content = encoded(container, wave=np.stack([WAVE, -0.5 * WAVE], axis=1))
    whole, _, _ = read_recording(content, 2**28)
    for block in (1, 1_000, 16_000, 31_999):
        if block == 1 and container != "WAV":
            continue
        monkeypatch.setattr(audio_files, "BLOCK", block)
        np.testing.assert_array_equal(read_recording(content, 2**28)[0], whole)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "AU"])
def test_no_more_is_read_than_the_limit(container, monkeypatch):
    content = encoded(container)
    monkeypatch.setattr(audio_files, "BLOCK", 2_000)
    assert len(read_recording(content, 16_000)[0]) == 16_000
    with pytest.raises(BadSample, match="too large"):
        read_recording(content, 15_999)
    if container == "FLAC":  # of unknown length: noticed while it is read
        properties = int.from_bytes(content[18:26], "big") >> 36 << 36
        endless = content[:18] + properties.to_bytes(8, "big") + content[26:]
        with pytest.raises(BadSample, match="too large"):
            read_recording(endless, 15_999)


@pytest.mark.parametrize("codec", [0x0161, 0x0270, 0x0002 << 8])
def test_a_codec_that_libsndfile_lacks_names_a_converter(codec):
    content = bytearray(encoded("WAV"))
    content[20:22] = codec.to_bytes(2, "little")
    with pytest.raises(BadSample, match="unreadable: .*ffmpeg"):
        read_recording(bytes(content), 2**28)


def test_messages_do_not_depend_on_addresses():
    with pytest.raises(BadSample) as first:
        read_recording(b"not audio at all" * 9, 100)
    assert "0x" not in str(first.value) and first.value.reason == "unreadable"
    assert message_of(ValueError("bad <_io.BytesIO object at 0x7f>: here")) == "ValueError: bad: here"


def test_damaged_files_write_nothing_to_the_terminal(capfd):
    content, random = encoded("AIFF"), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        for position in random.integers(0, 60, 4):
            damaged[position] = random.integers(256)
        try:
            read_recording(bytes(damaged), 2**28)
        except BadSample:
            pass
    assert capfd.readouterr().err == ""


def test_nothing_is_written_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for container in ("WAV", "FLAC", "MP3"):
        read_recording(encoded(container), 2**28)
    assert os.listdir(tmp_path) == []
