import math

import numpy as np
import pytest
import torch
from alignment_cases import half_shared, independent
from calibrated_similarity import calibrate as oracle
from scipy.stats import kstest

from d2v_train.alignment.layers import MEASURES, prepare
from d2v_train.alignment.measures import debiased_cka
from d2v_train.alignment.nulls import calibrate, draw_permutations, holm, p_values, smallest_p_value


@pytest.mark.parametrize("make", [half_shared, independent])
@pytest.mark.parametrize("alpha", [0.05, 0.1])
def test_calibration_is_that_of_calibrated_similarity(make, alpha):
    a, b = make(n=30)
    orders = draw_permutations(30, 99, seed=3)
    remaining = iter(orders)
    expected = oracle(
        torch.from_numpy(a),
        torch.from_numpy(b),
        lambda x, y: debiased_cka(x.numpy(), y.numpy()),
        K=99,
        alpha=alpha,
        perm_fn=lambda n, device: torch.from_numpy(next(remaining)),
    )
    statistic = prepare("cka", a, b)
    null = np.array([statistic.permuted(order)[0, 0] for order in orders])
    result = calibrate(statistic.scores()[0, 0], null, alpha=alpha)
    found = [result.above_threshold, result.p_value, result.threshold]
    np.testing.assert_allclose(found, [float(value) for value in expected], atol=1e-6)


def test_the_calibrated_score_is_the_distance_from_the_null_in_its_spreads():
    null = np.array([0.1, 0.2, 0.3])
    result = calibrate(0.5, null)
    assert result.calibrated == pytest.approx((0.5 - 0.2) / 0.1)
    assert (result.null_mean, result.p_value, result.permutations) == (pytest.approx(0.2), 0.25, 3)
    assert calibrate(0.2, np.full(5, 0.2)).calibrated is None
    with pytest.raises(ValueError, match="alpha = 5"):
        calibrate(0.2, null, alpha=5)


def test_p_values_count_what_is_at_least_the_score():
    null = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(p_values(np.array([2.0, 6.0]), null), [3 / 4, 1 / 4])
    np.testing.assert_allclose(p_values(np.array([[2.0], [9.0]]), np.array([1.0, 2.0, 3.0])), [[3 / 4], [1 / 4]])


@pytest.mark.parametrize("measure", list(MEASURES))
def test_p_values_are_uniform_under_independence(measure):
    """200 draws."""
    count = 39 if measure == "retrieval" else 99
    found = []
    for seed in range(200):
        # With many neighbours, cycle kNN is 1 for all permutations.
        settings = {"k": 2} if measure == "cycle_knn" else {}
        statistic = prepare(measure, *independent(n=40, d=8, seed=seed), **settings)
        null = np.stack([statistic.permuted(order) for order in draw_permutations(40, count, seed=seed)])
        found.append(float(p_values(statistic.scores(), null)[0, 0]))
    # The few values of cycle kNN tie, so its p-values may be larger than uniform ones, never smaller.
    alternative = "greater" if measure == "cycle_knn" else "two-sided"
    # P-values are multiples of 1 / (K + 1): half a step less makes them symmetric between 0 and 1.
    assert kstest(np.array(found) - 0.5 / (count + 1), "uniform", alternative=alternative).pvalue > 0.01
    assert 0.01 <= np.mean(np.array(found) <= 0.05) <= 0.09


def test_restricted_permutations_stay_within_their_groups():
    groups = ["dog", "cat", "dog", "cat", "dog", "tree"]
    orders = draw_permutations(6, 200, groups=groups)
    assert all(groups[i] == groups[j] for order in orders for i, j in enumerate(order))
    assert (np.sort(orders, axis=1) == np.arange(6)).all()
    assert len({tuple(order) for order in orders}) == math.factorial(3) * math.factorial(2)
    assert smallest_p_value(6, 999, groups) == pytest.approx(1 / 12)
    with pytest.raises(ValueError, match="2 group labels for 6"):
        draw_permutations(6, 5, groups=["a", "b"])
    with pytest.raises(ValueError, match="nothing can be permuted"):
        draw_permutations(3, 5, groups=[1, 2, 3])


def test_what_groups_share_is_in_the_null_of_restricted_permutations():
    """Two modalities that agree on the group alone: far above the plain null, within the restricted one."""
    plain, restricted = [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        groups = np.repeat(np.arange(4), 10)
        a, b = (4 * random.normal(size=(4, 8))[groups] + random.normal(size=(40, 8)) for _ in range(2))
        statistic = prepare("mutual_knn", a, b, k=5)
        for found, labels in ((plain, None), (restricted, groups)):
            orders = draw_permutations(40, 99, seed=seed, groups=labels)
            null = np.stack([statistic.permuted(order) for order in orders])
            found.append(float(p_values(statistic.scores(), null)[0, 0]))
    assert max(plain) == 0.01
    assert np.mean(np.array(restricted) <= 0.05) <= 0.15
    assert 0.35 < np.mean(restricted) < 0.65


def test_permutations_depend_on_their_seed_alone():
    np.testing.assert_array_equal(draw_permutations(9, 5, seed=1), draw_permutations(9, 5, seed=1))
    assert (draw_permutations(9, 5, seed=1) != draw_permutations(9, 5, seed=2)).any()


def test_few_concepts_cannot_give_small_p_values():
    assert smallest_p_value(4, 999) == pytest.approx(1 / 24)
    assert smallest_p_value(60, 999) == 1 / 1000


def test_holm_corrects_for_the_number_of_tests():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
