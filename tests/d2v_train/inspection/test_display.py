"""Data URIs decode to what the model got."""

import base64
import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from d2v_train.inspection.display import picture_uri, recording_uri, shown, tokens_of


class Words:
    """A tokenizer of three words."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(["<s>", "big", "dog"][i] for i in ids if i or not skip_special_tokens)


def content(uri):
    return io.BytesIO(base64.b64decode(uri.partition(",")[2]))


def test_a_small_picture_keeps_every_pixel():
    pixels = torch.linspace(-2, 3, 64).view(1, 8, 8)
    uri = picture_uri(pixels)
    image = np.asarray(Image.open(content(uri)))
    assert uri.startswith("data:image/png;base64,") and image.shape == (8, 8)
    assert image == pytest.approx(np.linspace(0, 255, 64).reshape(8, 8), abs=1)


def test_a_large_picture_becomes_a_thumbnail():
    pixels = np.zeros((3, 200, 100))
    pixels[0, :100] = 1
    image = Image.open(content(picture_uri(pixels, side=50)))
    assert image.size == (25, 50) and image.format == "JPEG"
    top, bottom = image.getpixel((12, 5)), image.getpixel((12, 45))
    assert top[0] > 240 > 20 > bottom[0] and top[2] < 20


def test_a_uniform_picture_is_black():
    assert np.asarray(Image.open(content(picture_uri(np.full((1, 4, 4), 0.3))))).max() == 0


def test_a_recording_keeps_its_sound_at_half_loudness():
    time = np.arange(16000) / 16000
    uri = recording_uri(40 * np.sin(2 * np.pi * 440 * time))
    samples, rate = soundfile.read(content(uri))
    assert rate == 16000 and len(samples) == pytest.approx(16000, abs=3000)
    spectrum = np.abs(np.fft.rfft(samples[2000:10000]))
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)
    assert np.abs(samples[2000:10000]).max() == pytest.approx(0.5, abs=0.05) and len(uri) < 30_000


def test_a_library_without_mp3_gives_wav(monkeypatch):
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": "WAV"})
    assert recording_uri(np.ones(100)).startswith("data:audio/wav")


def test_items_are_shown_by_modality():
    picture = shown({"pixel_values": torch.ones(1, 4, 4)}, "dog", "a.jpg", 0.5)
    assert (picture.modality, picture.concept, picture.name, picture.value) == ("vision", "dog", "a.jpg", 0.5)
    assert picture.uri.startswith("data:image/")
    assert shown({"input_values": torch.ones(900)}, "dog").uri.startswith("data:audio/")
    text = shown({"input_ids": torch.tensor([0, 1, 2])}, "dog", tokenizer=Words())
    assert (text.name, text.uri, text.modality) == ("big dog", "", "text")


def test_tokens_are_decoded_one_by_one():
    assert tokens_of(torch.tensor([0, 2, 1]), Words()) == ["<s>", "dog", "big"]
