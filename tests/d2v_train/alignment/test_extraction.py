"""Features of examples: the right tokens, standardised by modality, averaged by concept, kept on disk."""

import numpy as np
import pytest
import torch
from concept_folder import WORDS, write_concepts
from probed_model import save_model

from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.encoders import ModelPart, open_encoder
from d2v_train.alignment.extraction import Example, LayerFeatures, _word_tokens, encode_concepts


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extraction")
    save_model(folder / "model")
    write_concepts(folder / "concepts")
    return folder


def part(place, modality):
    return ModelPart(modality, str(place / "model"))


@pytest.mark.parametrize("modality", ["vision", "audio", "text"])
def test_layers_equal_those_of_a_single_example(place, modality):
    table = load_concepts(place / "concepts")
    features = encode_concepts(part(place, modality), table, batch_size=5)
    assert features.names == WORDS and len(features.labels) == 32
    one = load_concepts(place / "concepts")
    for concept in one.concepts:
        concept.examples = {name: examples[2:4] for name, examples in concept.examples.items()}
    alone = encode_concepts(part(place, modality), one, batch_size=1)
    # Padding of a batch changes nothing.
    for layer in range(len(features.layers)):
        np.testing.assert_allclose(features.values[layer][2:4], alone.values[layer][:2], rtol=1e-3, atol=1e-4)


def test_text_has_layers_of_the_word_and_of_the_sentence(place):
    features = encode_concepts(part(place, "text"), load_concepts(place / "concepts"))
    assert features.layers == [f"{kind} {layer}" for kind in ("word", "sentence") for layer in range(3)]
    encoder, transform = open_encoder(part(place, "text"))
    ids = transform({"text": features.labels[0], "id": 0})["input_ids"]
    with torch.no_grad():
        states = encoder.eval()(input_ids=ids[None], output_hidden_states=True).hidden_states
    inside = torch.from_numpy(_word_tokens(transform, Example(0, WORDS[0], features.labels[0])))
    np.testing.assert_allclose(features.values[2][0], states[2][0][inside].mean(dim=0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features.values[5][0], states[2][0].mean(dim=0), rtol=1e-3, atol=1e-4)


def test_tokens_of_a_word_cover_its_letters(place):
    _, transform = open_encoder(part(place, "text"))
    inside = _word_tokens(transform, Example(0, "rocking chair", "Two rocking chairs stood there."))
    ids = np.array(transform.tokenizer("Two rocking chairs stood there.")["input_ids"])
    assert transform.tokenizer.decode(ids[inside]).strip() == "rocking chairs"


def test_a_sentence_without_its_word_is_left_out(place, tmp_path):
    folder = write_concepts(tmp_path / "concepts")
    (folder / "sentences" / "dog.txt").write_text("A dog is here.\nNobody is here.\n")
    (folder / "recordings" / "lion" / "voice_1.wav").write_bytes(b"no recording")
    table = load_concepts(folder)
    text = encode_concepts(part(place, "text"), table)
    assert text.bad == ["Nobody is here.: the sentence does not name 'dog'"] and len(text.labels) == 29
    audio = encode_concepts(part(place, "audio"), table)
    assert len(audio.labels) == 31 and audio.bad[0].startswith("voice_1.wav: ")


def test_the_cache_follows_examples_and_weights(place, tmp_path):
    folder = write_concepts(tmp_path / "concepts")
    first = encode_concepts(part(place, "text"), load_concepts(folder), cache=tmp_path / "cache")
    again = encode_concepts(part(place, "text"), load_concepts(folder), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert again.labels == first.labels and again.layers == first.layers and again.parameters == first.parameters
    assert all(np.array_equal(a, b) for a, b in zip(first.values, again.values, strict=True))
    (folder / "sentences" / "dog.txt").write_text("A dog is here.\nThe dog was there.\n")
    encode_concepts(part(place, "text"), load_concepts(folder), cache=tmp_path / "cache")
    encode_concepts(ModelPart("text", str(place / "model"), seed=0), load_concepts(folder), cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def features_of(values, concepts, standardised=True):
    names = ["a", "b"]
    return LayerFeatures("vision", names, ["layer 0"], [np.array(values, dtype=np.float32)], np.array(concepts),
                         ["x"] * len(concepts), standardised=standardised)  # fmt: skip


def test_dimensions_count_alike():
    features = features_of([[0, 0], [2, 2000], [4, 4000]], [0, 0, 1])
    (matrix,) = features.matrices()
    np.testing.assert_allclose(matrix[:, 0], matrix[:, 1])
    np.testing.assert_allclose(features.exemplars(0).std(axis=0), 1)
    (plain,) = features_of([[0, 0], [2, 2000], [4, 4000]], [0, 0, 1], standardised=False).matrices()
    np.testing.assert_allclose(plain, [[-1, -1000], [2, 2000]])


def test_halves_share_no_example():
    features = features_of([[0.0], [1.0], [2.0], [10.0], [20.0]], [0, 0, 0, 1, 1], standardised=False)
    (first,), (second,) = features.halves()
    mean = 33 / 5
    np.testing.assert_allclose(first[:, 0] + mean, [1, 10], atol=1e-5)
    np.testing.assert_allclose(second[:, 0] + mean, [1, 20], atol=1e-5)


def test_a_concept_without_examples_is_named():
    with pytest.raises(ValueError, match="No vision example of b could be read"):
        features_of([[0.0]], [0]).matrices()
