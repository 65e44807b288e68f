"""Simple features against properties that hold whatever the implementation."""

import numpy as np
import pytest
from PIL import Image
from transformers.audio_utils import hertz_to_mel

from d2v_train.probing.simple_features import (
    NUM_BANDS,
    NUM_FILTERS,
    SIMPLE_FEATURES,
    channel_features,
    deltas,
    log_mel,
    mel_filters,
    mfcc,
    mfcc_features,
    pixel_features,
    simple_features,
    tfidf_features,
)
from modeling_d2v.configuration_vision import Data2VecVisionConfig
from modeling_d2v.modalities import MODALITIES


RATE = 16000


def tone(frequency, seconds=0.5, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("frequency", [150, 440, 1000, 2500, 6000])
def test_energy_of_a_pure_tone_lies_in_the_filter_centred_nearest(frequency):
    centres = np.linspace(*hertz_to_mel(np.array([20.0, RATE / 2]), "htk"), NUM_FILTERS + 2)[1:-1]
    expected = np.abs(centres - hertz_to_mel(frequency, "htk")).argmin()
    energy = log_mel(tone(frequency)).mean(axis=0)
    assert abs(int(energy.argmax()) - int(expected)) <= 1
    far = np.abs(np.arange(NUM_FILTERS) - expected) > 6
    assert energy.max() - energy[far].max() > np.log(100)


def test_neighbouring_filters_add_up_to_one_and_none_is_empty():
    filters = mel_filters().T
    assert (filters.sum(axis=1) > 0).all() and (filters >= 0).all()
    peaks = filters.argmax(axis=1)
    np.testing.assert_allclose(filters.sum(axis=0)[peaks[0] + 1 : peaks[-1]], 1.0, atol=1e-12)


def test_silence_and_shortest_clips_are_finite():
    for samples in (np.zeros(RATE), np.zeros(1), np.ones(10), np.zeros(399)):
        features = mfcc_features(samples, with_deltas=True)
        assert features.shape == (52,) and np.isfinite(features).all()


def test_frame_count_follows_window_and_hop():
    assert mfcc(np.zeros(400)).shape == (1, 13)
    assert mfcc(np.zeros(559)).shape == (1, 13)
    assert mfcc(np.zeros(560)).shape == (2, 13)
    assert mfcc(np.zeros(RATE)).shape == (98, 13)


def test_loudness_moves_only_the_zeroth_coefficient():
    generator = np.random.default_rng(0)
    waveform = 0.1 * generator.normal(size=RATE)
    quiet, loud = mfcc(waveform), mfcc(4 * waveform)
    np.testing.assert_allclose(loud[:, 1:], quiet[:, 1:], atol=1e-6)
    np.testing.assert_allclose(loud[:, 0] - quiet[:, 0], np.sqrt(40) * np.log(16.0), atol=1e-6)


def test_deltas_of_a_ramp_are_its_slope_and_of_a_constant_zero():
    ramp = 3.0 * np.arange(20)[:, None] + np.zeros((1, 2))
    np.testing.assert_allclose(deltas(ramp)[2:-2], 3.0)
    np.testing.assert_allclose(deltas(np.full((1, 4), 7.0)), 0.0, atol=1e-12)


def test_time_reversal_changes_slopes_only_in_sign():
    waveform = np.concatenate([tone(300, 0.3), tone(2000, 0.3)])
    forward, backward = mfcc(waveform), mfcc(waveform)[::-1]
    np.testing.assert_allclose(deltas(forward)[::-1], -deltas(backward), atol=1e-9)


def test_features_are_those_of_earlier_reports():
    samples = tone(440) + tone(1900, amplitude=0.1) * np.linspace(0, 1, RATE // 2)
    features = mfcc_features(samples, with_deltas=True)
    expected = [-75.9891, -7.89642, -0.08012, -0.09941, 0.03152, 0.04284, 1.59512, 0.26332, 1.20922, 0.14199, 0.07518]
    np.testing.assert_allclose(features[::5], expected, rtol=1e-5, atol=1e-5)


def test_tones_of_different_pitch_have_different_features():
    low, low_again, high = (mfcc_features(tone(f, amplitude=a)) for f, a in ((300, 0.5), (305, 0.5), (3000, 0.5)))
    assert np.linalg.norm(low - low_again) < 0.2 * np.linalg.norm(low - high)


def test_empty_waveform_is_refused():
    with pytest.raises(ValueError, match="non-empty"):
        mfcc(np.zeros(0))


def test_pixels_keep_values_and_are_capped_in_size():
    image = Image.new("RGB", (8, 8), (255, 0, 51))
    np.testing.assert_allclose(pixel_features(image, size=8).reshape(8, 8, 3)[3, 3], [1.0, 0.0, 0.2], atol=1e-6)
    assert pixel_features(image, size=8, channels=1).shape == (64,)
    assert pixel_features(image, size=224).shape == (32 * 32 * 3,)
    with pytest.raises(ValueError, match="4 channels"):
        pixel_features(image, size=8, channels=4)


def test_tfidf_learns_its_vocabulary_from_the_training_texts_only():
    train, test = tfidf_features(["a good film", "a bad film"], ["unseen words", "good"])
    assert train.shape[1] == test.shape[1]
    np.testing.assert_allclose(np.sqrt(train.multiply(train).sum(axis=1)), 1.0)
    assert test[[0]].nnz == 0 and test[[1]].nnz == 1
    with pytest.raises(ValueError, match="word"):
        tfidf_features(["...", "!"], ["a"])


def test_every_modality_has_its_simple_features():
    clips = [{"audio": np.random.default_rng(i).normal(size=4000)} for i in range(4)]
    audio = simple_features("audio", clips[:3], clips[3:], None)
    assert audio["mfcc"][0].shape == (3, 26) and audio["mfcc_deltas"][1].shape == (1, 52)
    np.testing.assert_array_equal(audio["mfcc"][1][0], mfcc_features(clips[3]["audio"]))
    shape = Data2VecVisionConfig(image_size=8, patch_size=2, num_channels=1)
    images = [{"image": Image.new("L", (8, 8), i)} for i in range(4)]
    assert simple_features("vision", images[:3], images[3:], shape)["pixels"][0].shape == (3, 64)
    arrays = [{"array": np.random.default_rng(i).normal(size=(50, 3))} for i in range(4)]
    assert simple_features("arrays", arrays[:3], arrays[3:], None)["channels"][1].shape == (1, 3 * (2 + NUM_BANDS))
    assert list(simple_features("text", [{"text": "one"}], [{"text": "two"}], None)) == ["tfidf"]
    assert SIMPLE_FEATURES.keys() == MODALITIES.keys()


def test_features_of_a_channel_are_its_mean_its_deviation_and_where_its_power_lies():
    steps = np.arange(256)
    slow, fast = (np.sin(2 * np.pi * cycles * steps / 256) for cycles in (2, 100))
    rows = channel_features(np.stack([3 + 2 * slow, fast], axis=1)).reshape(2, 2 + NUM_BANDS)
    np.testing.assert_allclose(rows[:, 0], [3, 0], atol=1e-5)
    np.testing.assert_allclose(rows[:, 1], np.log([2 * 0.5**0.5, 0.5**0.5]), atol=1e-5)
    assert rows[0, 2:].argmax() == 1 and rows[1, 2:].argmax() == NUM_BANDS - 1
    np.testing.assert_allclose(np.exp(rows[:, 2:]).sum(axis=1), 1, atol=1e-3)


def test_features_of_channels_do_not_depend_on_when_a_series_begins_or_on_its_other_channels():
    series = np.random.default_rng(0).normal(size=(64, 2))
    own = channel_features(series)
    np.testing.assert_allclose(channel_features(np.roll(series, 11, axis=0)), own, rtol=1e-4, atol=1e-4)
    alone = channel_features(series[:, :1])
    np.testing.assert_allclose(own[: len(alone)], alone, rtol=1e-5)
    assert channel_features(np.zeros((5, 6, 7, 2))).shape == (2 * (2 + 3 * NUM_BANDS),)
    assert np.isfinite(channel_features(np.zeros((1, 3)))).all()
    for wrong in (np.zeros(5), np.zeros((0, 3)), np.zeros((4, 0))):
        with pytest.raises(ValueError, match="must have sides and channels"):
            channel_features(wrong)
