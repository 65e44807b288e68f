"""Concepts follow from names, counts and the rule alone."""

import pytest

from d2v_train.alignment.vocabulary import VocabularyRule, choose_concepts, wordnet_group


CLASSES = {
    "chihuahua": "n02085620",
    "golden retriever": "n02099601",
    "ice cream": "n07614500",
    "suspension bridge": "n04366367",
    "steel arch bridge": "n04311004",
    "freight car": "n03393912",
    "sports car": "n04285008",
    "fly": "n02190166",
    "wok": "n04596742",
}
COUNTS = {"dog": 90, "ice cream": 30, "cream": 200, "bridge": 50, "freight car": 25, "car": 100, "fly": 400}
RULE = VocabularyRule(families={"dog": ["chihuahua", "golden retriever"]}, left_out={"fly": "mostly the verb"})


def chosen():
    concepts, left_out = choose_concepts(CLASSES, lambda word: COUNTS.get(word, 0), RULE)
    return {concept.word: concept for concept in concepts}, left_out


def test_families_names_and_last_words():
    concepts, _ = chosen()
    assert list(concepts) == ["bridge", "car", "dog", "ice cream"]
    assert concepts["dog"].classes == ("chihuahua", "golden retriever")
    assert concepts["bridge"].classes == ("suspension bridge", "steel arch bridge")
    assert concepts["ice cream"].sentences == 30


def test_every_other_class_has_its_reason():
    _, left_out = chosen()
    assert left_out["fly"] == "mostly the verb"
    assert left_out["wok"] == "fewer than 20 sentences (wok: 0)"
    assert "shares a word with 'car'" in left_out["freight car"]
    assert set(left_out) == {"fly", "wok", "freight car"}


def test_a_rule_for_unknown_classes_is_refused():
    with pytest.raises(ValueError, match="names poodle, which are not classes"):
        choose_concepts(CLASSES, lambda word: 0, VocabularyRule(left_out={"poodle": "rare"}))


@pytest.mark.parametrize(
    "wordnet_id, group",
    [("n02085620", "animal/mammal"), ("n01855672", "animal/bird"), ("n01641577", "animal/amphibian"),
     ("n02206856", "animal/arthropod"), ("n03126707", "artifact"), ("n07749582", "food"), ("n09246464", "place"),
     ("n12267677", "plant"), ("n00007846", "other"), ("n01910747", "animal/invertebrate")],
)  # fmt: skip
def test_groups_of_wordnet(wordnet_id, group):
    assert wordnet_group(wordnet_id) == group
