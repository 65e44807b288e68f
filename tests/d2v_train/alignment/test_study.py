"""The answer of a study follows from its pairs, and its limits from its data."""

from pathlib import Path

from study_cases import subject

from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.conclusions import PairVerdict
from d2v_train.alignment.protocol import Protocol
from d2v_train.alignment.study import Subjects, limits_of, overall


def pair(answer, kind="joint", second="audio"):
    return PairVerdict(kind=kind, first="vision", second=second, answer=answer, sentence="", p=[0.5],
                       minus_untrained=0.01, minus_low=-0.02, minus_high=0.04)  # fmt: skip


def test_one_yes_is_a_yes_for_its_pair():
    verdict = overall([pair("no"), pair("yes", second="text")], Protocol())
    assert verdict.answer == "yes" and verdict.sentence.startswith("Yes for vision and text")


def test_a_no_needs_all_pairs_of_the_first_family():
    assert overall([pair("no"), pair("no", second="text")], Protocol()).answer == "no"
    assert overall([pair("no"), pair("not supported", second="text")], Protocol()).answer == "not supported"
    assert overall([pair("no"), pair("yes", kind="separate")], Protocol()).answer == "no"


def test_the_sentence_has_its_uncertainty():
    assert "+0.010 [-0.020, +0.040]" in overall([pair("no")], Protocol()).sentence


def test_limits_name_few_seeds_and_made_sentences():
    subjects = Subjects({"joint": [subject("joint 0")]}, {"joint": [subject("untrained joint 0", "untrained")]})
    limits = limits_of(ConceptTable(Path(), [], made="templates"), subjects, Protocol())
    assert any("1 of joint; three are usual" in limit for limit in limits)
    assert "Sentences are from templates." in limits
    assert not any("fewer than 30" in limit for limit in limits)
    three = Subjects({"joint": [subject(f"joint {i}") for i in range(3)]}, {})
    assert not any("three are usual" in limit for limit in limits_of(ConceptTable(Path(), []), three, Protocol()))
