"""Comparisons of models: an aligned family says yes, an unrelated one no, and few concepts support no answer."""

import dataclasses

import numpy as np
import pytest
from study_cases import NAMES, features, subject, vectors

from d2v_train.alignment.comparisons import (
    Subject,
    align_all,
    best_pair,
    differences_to_untrained,
    family_verdicts,
    layer_table,
    primary_row,
)
from d2v_train.alignment.protocol import Protocol


PROTOCOL = Protocol(permutations=199, draws=40, neighbours=5, described=("direct",))
FOUND = {"vision": True, "audio": True}


def verdict_of(shared, controls=FOUND):
    trained = [subject(f"joint {seed}", shared=shared, seed=seed) for seed in range(3)]
    untrained = [subject(f"untrained joint {seed}", "untrained", shared=False, seed=50 + seed) for seed in range(2)]
    alignments = align_all(trained, PROTOCOL)
    (verdict,) = family_verdicts(
        trained, alignments, differences_to_untrained(trained, untrained, PROTOCOL), controls, PROTOCOL
    )
    return verdict


def test_aligned_modalities_say_yes():
    verdict = verdict_of(True)
    assert verdict.answer == "yes" and "3 of 3 seeds: yes" in verdict.sentence
    assert verdict.minus_low > 0 and max(verdict.p) < 0.05
    assert [vote.measure for vote in verdict.votes] == ["mutual_knn", "cka", "retrieval"]
    assert all(vote.passed == [True] * 3 and vote.low > 0 for vote in verdict.votes)


def test_unrelated_modalities_say_no():
    verdict = verdict_of(False)
    assert verdict.answer == "no" and len(verdict.p) == 3


def test_a_no_needs_the_positive_controls():
    assert verdict_of(False, {"vision": True, "audio": False}).answer == "not supported"


def test_the_best_pair_is_the_one_that_holds_the_concepts():
    model = subject("joint 0")
    key = ("joint 0", "vision", "audio", "mutual_knn")
    alignment = align_all([model], PROTOCOL)[key]
    assert best_pair(model, key, alignment).layers == ("layer 1", "layer 1")
    table = layer_table(model, key, alignment)
    assert table.score[1][1] == pytest.approx(best_pair(model, key, alignment).score, abs=1e-4)
    assert table.low[1][1] < table.score[1][1] < table.high[1][1] or table.score[1][1] == 1.0
    row = primary_row(model, key, alignment, None)
    assert (row.n, row.p, row.minus_untrained) == (32, pytest.approx(1 / 200), None)


def test_modalities_are_paired_by_name():
    first = features("vision", vectors(0))
    order = np.random.default_rng(1).permutation(len(NAMES))[:20]
    second = features("audio", vectors(0)[order], names=[NAMES[i] for i in order])
    model = Subject("joint 0", "joint", "joint", 0, {"vision": first, "audio": second})
    a, b = model.paired("vision", "audio")
    assert model.common("vision", "audio") == [name for name in NAMES if name in second.names]
    cosines = np.corrcoef(a[1], b[1])[:20, 20:]
    assert (cosines.argmax(axis=1) == np.arange(20)).all()


def test_direct_needs_one_width():
    model = subject("joint 0")
    model.matrices["audio"] = [matrix[:, :4] for matrix in model.matrices["audio"]]
    assert {key[3] for key in align_all([model], PROTOCOL)} == {"mutual_knn", "cka", "retrieval"}


def test_shuffled_names_lose_the_alignment():
    shuffled = subject("joint 0").shuffled(0)
    assert (shuffled.kind, shuffled.name) == ("shuffled", "shuffled joint 0")
    alignment = align_all([shuffled], PROTOCOL)["shuffled joint 0", "vision", "audio", "mutual_knn"]
    assert alignment.maximum.p_value > 0.01 and alignment.maximum.score < 0.5
    assert alignment.interval is None


def test_differences_of_chosen_measures():
    only = differences_to_untrained(
        [subject("joint 0")], [subject("a 0", shared=False, seed=9)], PROTOCOL, ("mutual_knn",)
    )
    assert list(only) == [("vision", "audio", "mutual_knn")]
    assert dataclasses.asdict(only["vision", "audio", "mutual_knn"])["difference"] > 0.3
