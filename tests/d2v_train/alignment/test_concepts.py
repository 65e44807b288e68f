"""A folder of concepts is read with an account; what cannot be used is said with its reason."""

import json

import pytest
from concept_folder import WORDS, write_concepts

from d2v_train.alignment.concepts import TEMPLATES, ConceptError, load_concepts


@pytest.fixture
def folder(tmp_path):
    return write_concepts(tmp_path / "concepts")


def test_examples_and_groups(folder):
    table = load_concepts(folder)
    assert [concept.name for concept in table.concepts] == WORDS
    assert table.modalities == ["vision", "audio", "text"]
    dog = table.concepts[WORDS.index("dog")]
    assert dog.group == "animal/mammal"
    assert [path.name for path in dog.examples["vision"]] == [f"dog_{i}.png" for i in range(4)]
    assert dog.examples["text"][0] == "There was the dog of number 0 in it."
    assert "vision: 8 concepts, 4 to 4 examples each" in table.account()


def test_examples_are_limited(folder):
    table = load_concepts(folder, exemplars=3)
    assert {len(examples) for concept in table.concepts for examples in concept.examples.values()} == {3}


def test_a_table_is_not_needed(folder):
    (folder / "concepts.json").unlink()
    table = load_concepts(folder)
    assert [concept.word for concept in table.concepts] == WORDS
    assert table.concepts[0].group == ""


def test_a_modality_may_be_missing(folder):
    (folder / "sentences" / "dog.txt").unlink()
    table = load_concepts(folder)
    assert [concept.name for concept in table.with_modality("text")] == [word for word in WORDS if word != "dog"]
    assert len(table.with_modality("vision")) == 8


def test_a_concept_of_one_modality_is_left_out(folder):
    (folder / "pictures" / "wok").mkdir()
    for number in range(2):
        (folder / "pictures" / "dog" / f"dog_{number}.png").rename(folder / "pictures" / "wok" / f"wok_{number}.png")
    table = load_concepts(folder)
    assert table.left_out["wok"] == "has at least 2 examples in vision only"
    assert "wok" not in [concept.name for concept in table.concepts]


def test_sentences_from_a_corpus_name_one_concept_only(folder):
    (folder / "sentences" / "dog.txt").unlink()
    corpus = [("The dog slept on the floor. The dog saw a lion over there. Two dogs ran to the house.", "a book")]
    table = load_concepts(folder, corpus=corpus)
    dog = table.concepts[WORDS.index("dog")]
    assert sorted(dog.examples["text"]) == ["The dog slept on the floor.", "Two dogs ran to the house."]
    assert table.made == "corpus"


def test_templates_are_the_last_resort(folder):
    (folder / "sentences" / "dog.txt").unlink()
    table = load_concepts(folder, corpus=[], templates=TEMPLATES)
    assert table.concepts[WORDS.index("dog")].examples["text"][1] == "I saw a dog there."
    assert table.made == "templates"


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("[", "is not a table of concepts"),
        (json.dumps({"concepts": [{"word": "dog"}]}), "is not a table of concepts"),
        (json.dumps({"concepts": [{"name": "dog"}, {"name": "dog"}]}), "names dog more than once"),
    ],
)
def test_a_wrong_table(folder, content, sentence):
    (folder / "concepts.json").write_text(content)
    with pytest.raises(ConceptError, match=sentence):
        load_concepts(folder)


def test_folders_without_concepts(tmp_path):
    with pytest.raises(ConceptError, match="is not a folder"):
        load_concepts(tmp_path / "none")
    with pytest.raises(ConceptError, match="holds no concepts"):
        load_concepts(tmp_path)


def test_one_modality_is_not_enough(folder):
    for name in ("pictures", "sentences"):
        (folder / name).rename(folder / f"other_{name}")
    with pytest.raises(ConceptError, match="0 in vision, 0 in audio, 0 in text. A study needs two"):
        load_concepts(folder)
