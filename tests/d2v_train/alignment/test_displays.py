"""Displays show the last layers, in the order of groups, and probes count the examples of others only."""

import numpy as np
import pytest
from concept_folder import write_concepts
from study_cases import COUNT, GROUPS, NAMES, features, subject, vectors

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.displays import (
    all_neighbours,
    all_questions,
    concept_probe,
    last_layer,
    shown_examples,
    similarity_matrices,
    source_of,
)
from d2v_train.alignment.handmade import hand_made_features


def test_the_last_layer_of_text_is_that_of_the_word():
    text = features("text", vectors(0), words=True)
    text.layers += ["sentence 0", "sentence 1"]
    assert last_layer(text) == 1
    assert last_layer(features("vision", vectors(0))) == 1


def test_similarities_of_a_shared_space_peak_on_the_diagonal():
    found = {(one.first, one.second): one for one in similarity_matrices(subject("joint 0"), GROUPS)}
    assert set(found) == {("vision", "vision"), ("vision", "audio"), ("audio", "audio")}
    between = np.array(found["vision", "audio"].matrix)
    assert found["vision", "audio"].names == NAMES and (between.argmax(axis=1) == np.arange(COUNT)).all()
    assert np.diag(found["vision", "vision"].matrix) == pytest.approx(1.0)


def test_neighbours_in_both_directions():
    found = all_neighbours(subject("joint 0"))
    assert len(found) == 2 * 2 * COUNT
    assert np.mean([neighbour.hit for neighbour in found if neighbour.method == "direct"]) == 1.0


def test_a_question_about_a_concept_that_a_modality_lacks():
    model = Subject("joint 0", "joint", "joint", 0, {
        "vision": features("vision", vectors(0)), "audio": features("audio", vectors(0), names=NAMES[1:]),
    })  # fmt: skip
    assert all_questions(model, NAMES[0], GROUPS, permutations_count=19) == []
    assert len(all_questions(model, NAMES[1], GROUPS, permutations_count=19)) == 4


def test_a_probe_does_not_see_its_own_example():
    assert concept_probe("a", features("vision", vectors(0))).accuracy == 1.0
    nothing = concept_probe("a", features("vision", vectors(0) * 0, noise=1.0))
    assert nothing.accuracy < 0.15 and nothing.chance == pytest.approx(1 / COUNT)


def test_examples_are_copied_and_counted(tmp_path):
    folder = write_concepts(tmp_path / "concepts", examples=6)
    (folder / "pictures" / "dog" / "dog_0.png").write_bytes(b"no picture")
    table = load_concepts(folder)
    shown = shown_examples(table, {name: hand_made_features(table, name) for name in table.modalities}, tmp_path)
    dog = shown["dog"]
    assert (dog["vision"].count, dog["vision"].unreadable, dog["vision"].sources) == (5, 1, {"dog": 6})
    assert len(dog["audio"].shown) == 4 and all((tmp_path / path).is_file() for path in dog["audio"].shown)
    assert dog["text"].shown[0] == "There was the dog of number 0 in it."


def test_sources_are_names_without_numbers(tmp_path):
    assert source_of(tmp_path / "golden_retriever_03.jpg") == "golden_retriever"
    assert source_of(tmp_path / "en-029-f3_s120_p40.flac") == "en-029-f3_s120_p40"
