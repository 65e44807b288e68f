"""Random gains over the spectrum of a recording."""

import numpy as np
import pytest
import torch

from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.inputs.audio import KNOTS, AudioTransform, Equaliser, standardise
from d2v_train.inputs.transforms import build_transform
from modeling_d2v import Data2VecConfig


NOISE = np.random.default_rng(0).normal(size=SAMPLING_RATE).astype(np.float32)


def test_gains_are_straight_between_the_knots_in_decibels_over_mel():
    bent = Equaliser(6.0)(NOISE, np.random.default_rng(1))

    gains = 20 * np.log10(np.abs(np.fft.rfft(bent)) / np.abs(np.fft.rfft(NOISE)))[1:-1]
    mel = 2595 * np.log10(1 + np.arange(1, SAMPLING_RATE // 2) / 700)
    knots = np.linspace(0, 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700), KNOTS)
    expected = np.interp(mel, knots, np.random.default_rng(1).normal(0, 6.0, KNOTS))
    np.testing.assert_allclose(gains, expected, atol=0.02)
    assert bent.dtype == np.float32 and bent.shape == NOISE.shape


def test_only_training_is_bent_and_each_seed_bends_otherwise():
    record = {"audio": NOISE, "id": 0}
    plain = AudioTransform()(record, seed=1)["input_values"]
    training = AudioTransform(equaliser=6.0)

    assert torch.equal(AudioTransform(equaliser=6.0, train=False)(record, seed=1)["input_values"], plain)
    assert torch.equal(training(record, seed=1)["input_values"], training(record, seed=1)["input_values"])
    assert not torch.allclose(training(record, seed=1)["input_values"], plain, atol=0.01)
    assert not torch.allclose(
        training(record, seed=1)["input_values"], training(record, seed=2)["input_values"], atol=0.01
    )


def test_crop_and_speed_are_those_of_the_run_without_it():
    """The gains are drawn last, so that the option changes nothing else of a sample."""
    record = {"audio": NOISE, "id": 0}
    options = {"crop_seconds": (0.2, 0.8), "speed": (0.8, 1.2)}
    lengths = [
        [len(AudioTransform(equaliser=decibels, **options)(record, seed=seed)["input_values"]) for seed in range(5)]
        for decibels in (0.0, 6.0)
    ]

    assert lengths[0] == lengths[1] and len(set(lengths[0])) > 1


@pytest.mark.parametrize("samples", [np.zeros(800), np.ones(1), np.array([0.5, -0.5])])
def test_silence_and_shortest_recordings_stay_finite(samples):
    values = AudioTransform(equaliser=6.0)({"audio": samples.astype(np.float32), "id": 0}, seed=3)["input_values"]

    assert values.isfinite().all() and len(values) == max(400, len(samples))


def test_loudest_curve_stays_finite():
    transform = build_transform("audio", {"equaliser": 60}, Data2VecConfig(modalities=["audio"]))

    assert all(transform({"audio": NOISE, "id": 0}, seed=seed)["input_values"].isfinite().all() for seed in range(20))


@pytest.mark.parametrize("wrong", [-1, "loud", True, float("nan"), float("inf"), 61, None])
def test_wrong_decibels_are_told(wrong):
    with pytest.raises(ValueError, match="equaliser"):
        build_transform("audio", {"equaliser": wrong}, Data2VecConfig(modalities=["audio"]))


def test_standardised_per_utterance_in_float32():
    samples = np.random.default_rng(0).normal(3, 5, 4_000).astype(np.float32)
    out = standardise(samples)
    assert out.dtype == np.float32 and abs(out.mean()) < 1e-5 and abs(out.std() - 1) < 1e-5
    from transformers import Wav2Vec2FeatureExtractor

    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(samples, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert (standardise(np.full(10, 0.3)) == 0).all()


def test_crops_have_random_lengths_within_the_range():
    transform = AudioTransform(crop_seconds=(0.1, 0.2))
    record = {"id": 1, "audio": np.random.default_rng(0).normal(size=16_000).astype(np.float32)}
    lengths = [len(transform(record, seed)["input_values"]) for seed in range(100)]
    # Few different lengths, evenly spaced: a new shape is dear.
    assert set(lengths) == set(range(1_600, 3_201, 160))
    assert torch.equal(transform(record, 5)["input_values"], transform(record, 5)["input_values"])


def test_short_clips_are_filled_up_after_standardisation():
    out = AudioTransform(min_samples=720)({"id": 0, "audio": np.resize([2.0, 4.0], 300).astype(np.float32)})
    values = out["input_values"]
    assert len(values) == 720 and (values[300:] == 0).all() and abs(values[:300].std(correction=0) - 1) < 1e-4


def test_speed_changes_the_pitch_and_not_the_length_of_a_crop():
    tone = np.sin(2 * np.pi * 1_000 * np.arange(64_000) / 16_000).astype(np.float32)
    record = {"id": 1, "audio": tone}
    transform = AudioTransform(crop_seconds=1.0, speed=(0.8, 1.25))
    peaks = []
    for seed in range(20):
        out = transform(record, seed)["input_values"]
        assert len(out) == 16_000 and torch.equal(out, transform(record, seed)["input_values"])
        peaks.append(int(torch.fft.rfft(out).abs().argmax()))
    assert 790 <= min(peaks) < 900 and 1_150 < max(peaks) <= 1_260
    whole = AudioTransform(speed=1.25)(record)["input_values"]
    assert len(whole) == 51_200 and int(torch.fft.rfft(whole).abs().argmax()) == 4_000
    assert len(AudioTransform(speed=1.25, train=False)(record)["input_values"]) == 64_000
