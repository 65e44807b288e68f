from dataclasses import replace

import pytest
from alignment_cases import half_shared, independent

from d2v_train.alignment.layers import align, contrast
from d2v_train.alignment.verdict import RULE, VERDICT_MEASURES, correct_tests, decide


def study(pair, untrained):
    alignments = {name: align(name, *pair, permutations=199, draws=0) for name in VERDICT_MEASURES}
    contrasts = {name: contrast(name, [pair], [untrained], draws=60) for name in VERDICT_MEASURES}
    return alignments, contrasts


@pytest.fixture(scope="module")
def aligned():
    return study(half_shared(), independent(seed=3))


@pytest.fixture(scope="module")
def unrelated():
    return study(independent(), independent(seed=3))


def test_aligned_and_learned_is_a_yes(aligned):
    verdict = decide(*aligned, positive_control=False)
    assert verdict.answer == "yes" and verdict.rule == RULE
    assert "3 of 3 measures" in verdict.sentence and "mutual kNN@10" in verdict.sentence.replace("M", "m", 1)


def test_a_no_needs_a_positive_control_and_thirty_concepts(unrelated):
    assert decide(*unrelated, positive_control=True).answer == "no"
    failed = decide(*unrelated, positive_control=False)
    assert failed.answer == "undecided" and "positive control was not found" in failed.sentence
    few = decide(*study(independent(n=29), independent(n=29, seed=3)), positive_control=True)
    assert few.answer == "undecided"
    assert 'With fewer than 30 concepts (here 29) a "no" is not supported' in few.sentence


def test_alignment_that_an_untrained_network_has_too_is_not_a_yes():
    pair = half_shared()
    verdict = decide(*study(pair, pair), positive_control=True)
    assert verdict.answer == "no"
    assert all(entry.corrected_p_value < 0.05 and not entry.passed for entry in verdict.measures.values())


def test_two_of_three_measures_are_required(aligned, unrelated):
    for failing, answer in ((1, "yes"), (2, "no")):
        mixed = [dict(side) for side in aligned]
        for name in VERDICT_MEASURES[:failing]:
            mixed[0][name], mixed[1][name] = unrelated[0][name], unrelated[1][name]
        verdict = decide(*mixed, positive_control=True)
        assert verdict.answer == answer
        assert ("primary measure is not among them" in verdict.sentence) == (answer == "yes")


def test_p_values_are_corrected_for_the_number_of_tests(aligned):
    values = {name: alignment.maximum.p_value for name, alignment in aligned[0].items()}
    verdict = decide(*aligned, positive_control=True)
    assert all(verdict.measures[name].corrected_p_value == pytest.approx(3 * values[name]) for name in values)
    corrected = correct_tests({("a b", "cka"): 0.02, ("a c", "cka"): 0.03})
    assert corrected == pytest.approx({("a b", "cka"): 0.04, ("a c", "cka"): 0.04})
    many = dict.fromkeys(VERDICT_MEASURES, 0.2)
    assert decide(*aligned, positive_control=True, corrected=many).answer == "no"


def test_measures_are_those_of_the_rule_and_of_one_study(aligned):
    alignments, contrasts = aligned
    with pytest.raises(ValueError, match="needs cka, retrieval"):
        decide({"mutual_knn": alignments["mutual_knn"]}, contrasts, positive_control=True)
    other = {**contrasts, "cka": replace(contrasts["cka"], concepts=59)}
    with pytest.raises(ValueError, match="cka: alignment and contrast differ"):
        decide(alignments, other, positive_control=True)
