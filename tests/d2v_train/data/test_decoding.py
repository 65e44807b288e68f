"""Decoding: any recording, picture or text becomes what the transforms take, or is told to be bad."""

import numpy as np
import pytest
import soundfile
from broken_data import write_recordings
from PIL import Image

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio, decode_image, decode_text


def wave(seconds=0.1, rate=16_000, frequency=440.0, channels=1):
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.tile(tone[:, None], (1, channels)).astype(np.float32).squeeze()


def test_audio_is_resampled_and_mixed_down():
    samples, notes = decode_audio({"array": wave(0.5, 8_000, channels=2), "sampling_rate": 8_000})
    assert samples.shape == (8_000,) and samples.dtype == np.float32
    assert notes == ["mixed down to mono", "resampled"]
    middle = slice(1_000, 7_000)
    np.testing.assert_allclose(samples[middle], wave(0.5)[middle], atol=5e-3)


def test_stereo_is_the_mean_of_its_channels():
    stereo = np.stack([np.full(400, 0.25), np.full(400, -0.75)], axis=1)
    samples, _ = decode_audio({"array": stereo, "sampling_rate": 16_000})
    np.testing.assert_allclose(samples, -0.25)


@pytest.mark.parametrize("rate", [16_000, 8_000])
@pytest.mark.parametrize("gain", [-1.0, -1.01, -0.99])
def test_stereo_in_opposite_phase_is_not_silence(rate, gain):
    tone = wave(0.5, rate)
    samples, notes = decode_audio({"array": np.stack([tone, gain * tone], axis=1), "sampling_rate": rate})
    loudest = tone if abs(gain) <= 1 else gain * tone
    expected, _ = decode_audio({"array": loudest, "sampling_rate": rate})
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    assert notes[0] == "channels in opposite phase: one taken" and "silent" not in notes


def test_many_channels_that_cancel():
    tone = wave(0.5)
    samples, notes = decode_audio(
        {"array": np.stack([tone, -tone, 0.5 * tone, -0.5 * tone], axis=1), "sampling_rate": 16_000}
    )
    np.testing.assert_array_equal(samples, tone)
    assert notes == ["channels in opposite phase: one taken"]
    # Partly in opposite phase, or 30 dB below: the mean is what was recorded.
    for channels in ([tone, -0.9 * tone], [tone, -0.9 * tone, 0.1 * tone], [tone, tone * 0.1 - tone]):
        samples, notes = decode_audio({"array": np.stack(channels, axis=1), "sampling_rate": 16_000})
        np.testing.assert_allclose(samples, np.mean(channels, axis=0), atol=1e-6)
        assert notes == ["mixed down to mono"]


@pytest.mark.parametrize("silent", [0.0, 0.25])
def test_silent_channels_do_not_count(silent):
    tone, nothing = wave(0.5), np.full(8_000, silent, np.float32)
    for channels in ([tone, nothing], [nothing, tone], [nothing] * 5 + [tone]):
        samples, notes = decode_audio({"array": np.stack(channels, axis=1), "sampling_rate": 16_000})
        np.testing.assert_array_equal(samples, tone)
        assert notes == ["silent channels left out", "mixed down to mono"]
    samples, notes = decode_audio({"array": np.stack([nothing, nothing], axis=1), "sampling_rate": 16_000})
    assert samples.tolist() == nothing.tolist() and notes == ["mixed down to mono", "silent"]


def test_more_channels_are_mixed_by_their_mean():
    channels = np.random.default_rng(0).normal(0, 0.1, (4_000, 12)).astype(np.float32)
    for number in (3, 6, 12):
        samples, notes = decode_audio({"array": channels[:, :number], "sampling_rate": 16_000})
        np.testing.assert_allclose(samples, channels[:, :number].mean(axis=1), atol=1e-7)
        assert notes == ["mixed down to mono"]


def test_samples_in_lists():
    tone = wave(0.5)
    for value in (tone.tolist(), tone, [[sample] for sample in tone.tolist()], tone[None].tolist()):
        samples, notes = decode_audio({"array": value, "sampling_rate": 16_000})
        np.testing.assert_array_equal(samples, tone)
        assert notes == []
    stereo = [list(map(np.float32, tone)), list(map(np.float32, tone))]
    assert decode_audio({"array": stereo, "sampling_rate": 16_000})[1] == ["mixed down to mono"]
    channels = np.empty(2, dtype=object)
    channels[:] = [tone, tone]
    np.testing.assert_array_equal(decode_audio({"array": channels, "sampling_rate": 16_000})[0], tone)
    np.testing.assert_array_equal(decode_audio(tone, array_rate=16_000)[0], tone)


@pytest.mark.parametrize(
    "dtype, scale, middle",
    [(np.int8, 128, 0), (np.uint8, 128, 128), (np.int16, 2**15, 0), (np.uint16, 2**15, 2**15), (np.int32, 2**31, 0)],
)
def test_whole_numbers_are_scaled_by_their_type(dtype, scale, middle):
    tone = wave(0.5)
    samples, notes = decode_audio({"array": (tone * scale + middle).astype(dtype), "sampling_rate": 16_000})
    np.testing.assert_allclose(samples, tone, atol=2 / scale)
    assert notes == ["scaled to [-1, 1]"]


def test_lists_of_whole_numbers_have_sixteen_bits_or_thirty_two():
    tone = wave(0.5).astype(np.float64)
    for bits, value in ((16, 1.0), (16, 0.001), (32, 1.0)):
        whole = (tone * value * 2 ** (bits - 1)).astype(np.int64)
        for stored in (whole, whole.tolist()):
            samples, _ = decode_audio({"array": stored, "sampling_rate": 16_000})
            np.testing.assert_allclose(samples, tone * value, atol=2**-14)


def test_an_array_needs_its_rate():
    tone = wave(0.5, 8_000)
    for value in ({"array": tone}, {"array": tone, "sampling_rate": None}, tone.tolist()):
        with pytest.raises(BadSample, match="missing: .*sampling rate.*option sampling_rate"):
            decode_audio(value)
        assert len(decode_audio(value, array_rate=8_000)[0]) == 8_000
    assert len(decode_audio({"array": tone, "sampling_rate": 16_000}, array_rate=8_000)[0]) == 4_000


@pytest.mark.parametrize(
    "value", [[[0.0, 0.1], [0.2]], ["a", "b"], [[[0.0] * 9] * 3] * 2, np.zeros(9, complex), np.float32(3), [None, 0.5]]
)
def test_arrays_that_are_no_recordings(value):
    with pytest.raises(BadSample, match="unreadable"):
        decode_audio({"array": value, "sampling_rate": 16_000})


@pytest.mark.parametrize(
    ("samples", "reason"),
    [(np.zeros(0), "empty"), (np.array([0.0, np.nan]), "non-finite"), (np.array([0.0, np.inf]), "non-finite")],
)
def test_unusable_samples_are_told_apart(samples, reason):
    with pytest.raises(BadSample) as error:
        decode_audio({"array": samples, "sampling_rate": 16_000})
    assert error.value.reason == reason


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_damaged_audio_files(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8_000), 16_000)
    assert len(decode_audio(path)[0]) == 8_000
    encoded = path.read_bytes()
    for damaged, reasons in [
        (encoded[: len(encoded) // 2], {"truncated", "unreadable"}),
        (b"not audio at all" * 9, {"unreadable"}),
        (b"", {"empty"}),
    ]:
        with pytest.raises(BadSample) as error:
            decode_audio(damaged)
        assert error.value.reason in reasons
    with pytest.raises(BadSample, match="missing"):
        decode_audio(tmp_path / "absent.wav")


def test_images_are_upright_and_damaged_ones_are_noticed(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = picture.getexif()
    exif[274] = 6  # the camera was turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg").size == (4, 6)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.jpg")
    with pytest.raises(BadSample, match="truncated"):
        decode_image((tmp_path / "noise.jpg").read_bytes()[:1500])
    with pytest.raises(BadSample, match="unreadable"):
        decode_image(b"GIF89a nonsense")


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(decode_image(tmp_path / "deep.png", channels=1)).tolist() == [[0, 128, 255]]


def test_text_is_checked():
    assert decode_text(" caf\u00e9\n".encode()) == "caf\u00e9"
    for value, reason in [(b"caf\xe9", "not UTF-8"), ("  \n", "empty"), (None, "empty"), (7, "unreadable")]:
        with pytest.raises(BadSample) as error:
            decode_text(value)
        assert error.value.reason == reason


def test_absurdly_long_recordings_are_refused_before_they_are_read(tmp_path, monkeypatch):
    write_recordings(tmp_path)
    monkeypatch.setattr("d2v_train.data.decoding.MAX_AUDIO_SAMPLES", 6399)
    assert len(decode_audio(tmp_path / "good0.flac")[0]) == 3200
    with pytest.raises(BadSample, match="too large"):
        decode_audio(tmp_path / "stereo.wav")
