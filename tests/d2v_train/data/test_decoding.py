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
