from itertools import permutations

import numpy as np
import pytest
from alignment_cases import ALIGNED, confounded, half_shared, independent
from scipy.optimize import quadratic_assignment

from d2v_train.alignment.geometry import u_centred
from d2v_train.alignment.matching import blind_matching, fixed_points_p_value


@pytest.mark.parametrize("n", [8, 9, 10, 60])
@pytest.mark.parametrize("make", ALIGNED.values(), ids=list(ALIGNED))
def test_the_same_space_is_matched(make, n):
    result = blind_matching(*make(n=n))
    assert result.correct == n and result.accuracy == 1 and result.exact == (n <= 9)
    assert result.objective == pytest.approx(1) and result.matches == tuple(range(n))
    assert result.p_value < 1e-4


def test_all_orders_are_tried_up_to_nine_and_the_search_comes_close(monkeypatch):
    shares = []
    for seed in range(5):
        a, b = half_shared(n=8, seed=seed)
        exact = blind_matching(a, b)
        monkeypatch.setattr("d2v_train.alignment.matching.BRUTE_FORCE", 4)
        searched = blind_matching(a, b)
        monkeypatch.undo()
        assert exact.exact and not searched.exact
        assert exact.objective >= max(exact.true_objective, searched.objective) - 1e-12
        shares.append(searched.objective / exact.objective)
    assert min(shares) > 0.95


def test_the_search_is_at_least_as_good_as_that_of_scipy():
    a, b = half_shared(n=30)
    kernels = [u_centred(((x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T)[None])[0] for x in (a, b)]
    kernels = [kernel / np.linalg.norm(kernel) for kernel in kernels]
    other = max(
        quadratic_assignment(*kernels, method=method, options={"maximize": True, "rng": np.random.default_rng(0)}).fun
        for method in ("faq", "2opt")
    )
    assert blind_matching(a, b).objective >= other - 1e-9


def test_unrelated_modalities_match_as_random_orders_do():
    results = [blind_matching(*independent(n=7, d=4, seed=seed), seed=seed) for seed in range(100)]
    assert np.mean([result.correct for result in results]) == pytest.approx(1, abs=0.35)
    assert np.mean([result.p_value <= 0.05 for result in results]) <= 0.05


def test_ties_do_not_favour_the_true_order():
    constant = np.zeros((8, 3))
    correct = [blind_matching(constant, constant, seed=seed).correct for seed in range(20)]
    assert np.mean(correct) < 3


def test_one_variable_in_common_is_enough_to_match_without_a_pair():
    """Which is why a blind match is no proof of meaning: nuisances have to be looked at beside it."""
    a, b, _ = confounded(n=30, strength=100)
    assert blind_matching(a, b).accuracy > 0.3


def test_p_values_count_the_fixed_points_of_random_orders():
    orders = [sum(i == j for i, j in enumerate(order)) for order in permutations(range(6))]
    for least in range(7):
        assert fixed_points_p_value(6, least) == pytest.approx(np.mean([count >= least for count in orders]))
    assert fixed_points_p_value(200, 0) == 1
    assert fixed_points_p_value(200, 200) < 1e-300
