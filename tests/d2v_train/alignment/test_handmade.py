"""Hand-made features have their sizes, and tell what they are made to tell."""

import numpy as np
import pytest
from concept_folder import write_concepts
from PIL import Image

from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.handmade import colour_histogram, hand_made_features, log_mel_profile


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_concepts(write_concepts(tmp_path_factory.mktemp("handmade") / "concepts"))


def test_colours_count_pixels():
    histogram = colour_histogram(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert histogram.shape == (64,)
    assert histogram[3 * 16] == 1.0 and histogram.sum() == 1.0


def test_a_profile_keeps_the_order_of_time_at_any_length():
    for length in (4_000, 12_000):
        low, high = (np.sin(np.arange(length) * speed) for speed in (0.1, 1.5))
        profile = log_mel_profile(np.concatenate([low, high])).reshape(16, 40)
        loudest = profile.argmax(axis=1)
        assert len(set(loudest[:7])) == len(set(loudest[9:])) == 1
        assert loudest[0] + 10 < loudest[-1]


@pytest.mark.parametrize(
    "modality, layers",
    [("vision", ["pixels", "colours"]), ("audio", ["mfcc", "log-mel"]), ("text", ["context words", "letters"])],
)  # fmt: skip
def test_each_kind_is_a_layer(table, modality, layers):
    features = hand_made_features(table, modality)
    assert features.layers == layers
    assert all(len(values) == 32 for values in features.values)
    assert features.parameters == 0


def test_context_leaves_out_the_word_itself(table):
    context = hand_made_features(table, "text").values[0]
    # All sentences are the same but for the word and the number.
    first = [context[i] for i in range(0, 32, 4)]
    assert all(np.allclose(first[0], other) for other in first)


def test_letters_are_those_of_the_word(table):
    letters = hand_made_features(table, "text").values[1]
    assert np.allclose(letters[0], letters[1]) and not np.allclose(letters[0], letters[4])


def test_a_damaged_picture_is_left_out(tmp_path):
    folder = write_concepts(tmp_path / "concepts")
    (folder / "pictures" / "dog" / "dog_1.png").write_bytes(b"no picture")
    features = hand_made_features(load_concepts(folder), "vision")
    assert len(features.labels) == 31 and features.bad[0].startswith("dog_1.png: ")
