"""Selectivity of units against independent implementations, and shared units of constructed activations."""

import numpy as np
import pytest
from scipy.stats import kstest, mannwhitneyu
from sklearn.metrics import roc_auc_score

from d2v_train.inspection.units import (
    Selectivity,
    benjamini_hochberg,
    concept_auc,
    dominance,
    dominance_histogram,
    find_shared_units,
    selectivity,
    shared_units,
    top_items,
)


CONCEPTS = 6


def activations(generator, units, strength=4.0, items=10):
    """(N, U) activations: unit u responds to concept `units[u]` (-1: to none); and the concepts (N,)."""
    concepts = np.repeat(np.arange(CONCEPTS), items)
    values = generator.normal(size=(len(concepts), len(units)))
    return values + strength * (concepts[:, None] == np.asarray(units)), concepts


def halves(generator, units, **kwargs):
    return activations(generator, units, **kwargs), activations(generator, units, **kwargs)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_its_p_value_equal_those_of_scikit_learn_and_scipy(ties):
    generator = np.random.default_rng(0)
    values, concepts = activations(generator, [0, 3, -1], strength=1.0)
    values = np.round(values) if ties else values
    auc, p = concept_auc(values, concepts, CONCEPTS)
    for concept in range(CONCEPTS):
        for unit in range(3):
            inside, outside = values[concepts == concept, unit], values[concepts != concept, unit]
            expected = mannwhitneyu(inside, outside, alternative="greater", method="asymptotic")
            assert auc[concept, unit] == pytest.approx(roc_auc_score(concepts == concept, values[:, unit]))
            assert p[concept, unit] == pytest.approx(expected.pvalue, rel=1e-9)


def test_a_silent_unit_and_a_concept_without_items_are_at_chance():
    auc, p = concept_auc(np.zeros((4, 1)), np.array([0, 0, 1, 1]), 3)
    assert (auc == 0.5).all() and (p == 1).all()


def test_p_values_of_held_out_items_are_uniform_where_nothing_is_selective():
    generator = np.random.default_rng(0)
    chosen, measured = halves(generator, [-1] * 2000, items=20)
    found = selectivity(chosen, measured, CONCEPTS)
    assert kstest(found.p, "uniform").pvalue > 0.01
    assert found.auc.mean() == pytest.approx(0.5, abs=0.01)
    assert not found.selective.any()


def test_benjamini_hochberg_takes_the_largest_p_value_below_its_line():
    p = np.array([0.01, 0.04, 0.03, 0.9, 0.02])
    # Lines at .01, .02, .03, .04, .05: the fourth smallest, .04, lies on its own.
    assert benjamini_hochberg(p, 0.05).tolist() == [True, True, True, False, True]
    assert not benjamini_hochberg(np.array([0.06, 0.5])).any()
    assert benjamini_hochberg(np.array([])).shape == (0,)


def test_units_of_one_concept_in_both_modalities_are_found_and_no_others():
    generator = np.random.default_rng(0)
    in_pictures = [0, 1, 2, 3, -1, 5] + [-1] * 50
    in_speech = [0, 1, 4, -1, 4, 5] + [-1] * 50
    parts = {"vision": halves(generator, in_pictures), "audio": halves(generator, in_speech)}
    report = find_shared_units(
        {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}, CONCEPTS
    )
    (shared,) = report.shared
    assert sorted(shared.units) == [0, 1, 5] and shared.modalities == ["vision", "audio"]
    assert report.selectivity["vision"].concept[[0, 1, 2, 3, 5]].tolist() == [0, 1, 2, 3, 5]
    assert np.flatnonzero(report.selectivity["audio"].selective).tolist() == [0, 1, 2, 4, 5]


def test_units_that_agree_by_chance_are_no_more_than_under_renamed_concepts():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, CONCEPTS, (2, 300))
    parts = {"vision": halves(generator, first), "text": halves(generator, second)}
    report = find_shared_units(
        {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}, CONCEPTS
    )
    (shared,) = report.shared
    # All units are selective in both; a sixth of them has the same concept by chance.
    assert shared.expected == pytest.approx(50, abs=5) and shared.upper > shared.count
    assert shared.p > 0.05


def test_the_number_of_shared_units_holds_its_level():
    generator = np.random.default_rng(0)
    p = []
    for seed in range(200):
        parts = {
            name: Selectivity(generator.integers(0, 30, 400), np.ones(400), np.zeros(400), np.ones(400, dtype=bool))
            for name in ("vision", "audio")
        }
        p.append(shared_units(parts, list(parts), 30, permutations=99, seed=seed).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.09
    assert np.mean(p) == pytest.approx(0.54, abs=0.08)  # above .5, as numbers of units are whole and tie


def test_three_modalities_give_every_pair_and_all_of_them():
    generator = np.random.default_rng(0)
    parts = {
        name: halves(generator, units) for name, units in zip("abc", ([0, 1, 2], [0, 1, 3], [0, 4, 3]), strict=True)
    }
    report = find_shared_units(
        {name: part[0] for name, part in parts.items()},
        {name: part[1] for name, part in parts.items()},
        CONCEPTS,
        permutations=999,
    )
    found = {tuple(shared.modalities): sorted(shared.units) for shared in report.shared}
    assert found == {("a", "b"): [0, 1], ("a", "c"): [0], ("b", "c"): [0, 2], ("a", "b", "c"): [0]}
    everywhere = report.shared[-1]
    # One unit agrees twice by chance with probability 1/36.
    assert everywhere.expected == pytest.approx(3 / 36, abs=0.03)
    with pytest.raises(ValueError, match="two or more"):
        shared_units(report.selectivity, ["a"], CONCEPTS)


def test_the_most_selective_unit_comes_first():
    agree = [np.zeros(3, dtype=int), np.array([0.8, 0.9, 0.99]), np.zeros(3), np.ones(3, dtype=bool)]
    other = [agree[0], np.array([0.95, 0.9, 0.76]), *agree[2:]]
    assert shared_units({"a": Selectivity(*agree), "b": Selectivity(*other)}, ["a", "b"], 3, 9).units == [1, 0, 2]


def test_dominance_is_the_share_of_the_energy():
    values = {"vision": np.array([[3.0, 0, 0], [3.0, 0, 1]]), "audio": np.array([[1.0, 2, 0], [1.0, 2, 1]])}
    shares = dominance(values)
    assert shares == pytest.approx(np.array([[0.9, 0, 0.5], [0.1, 1, 0.5]]))
    assert dominance({"vision": np.zeros((2, 1)), "audio": np.zeros((2, 1))}) == pytest.approx(0.5)
    histogram = dominance_histogram(values)
    assert [sum(row) for row in histogram.values()] == [3, 3]
    assert histogram["audio"][0] == 0 and histogram["audio"][2] == 1 and histogram["audio"][-1] == 1


def test_top_items_are_the_strongest_ones():
    assert top_items(np.array([[1.0], [5.0], [3.0]]), 0, most=2) == [1, 2]


@pytest.mark.parametrize(("concepts", "message"), [([0, 1], "shape"), ([0, 1, 9], "0 to 5")])
def test_mistakes_are_named(concepts, message):
    with pytest.raises(ValueError, match=message):
        concept_auc(np.zeros((3, 2)), np.array(concepts), CONCEPTS)
