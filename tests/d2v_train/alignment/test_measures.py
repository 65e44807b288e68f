import numpy as np
import pytest
from alignment_cases import ALIGNED, confounded, half_shared, independent
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from d2v_train.alignment import measures


PAIR_MEASURES = {
    "mutual_knn": measures.mutual_knn,
    "cycle_knn": lambda a, b: measures.cycle_knn(a, b, k=2),
    "debiased_cka": measures.debiased_cka,
    "rsa": measures.rsa,
    "map_retrieval": lambda a, b: measures.map_retrieval(a, b)["percentile"],
}


@pytest.mark.parametrize("measure", PAIR_MEASURES.values(), ids=list(PAIR_MEASURES))
@pytest.mark.parametrize("make", ALIGNED.values(), ids=list(ALIGNED))
def test_identity_rotation_and_scale_do_not_matter(measure, make):
    assert measure(*make()) == pytest.approx(measure(*ALIGNED["identical"]()), abs=1e-6)
    assert measure(*make()) > 0.8


@pytest.mark.parametrize("measure", PAIR_MEASURES.values(), ids=list(PAIR_MEASURES))
def test_half_shared_lies_between_independent_and_identical(measure):
    unrelated = np.mean([measure(*independent(seed=seed)) for seed in range(10)])
    half = np.mean([measure(*half_shared(seed=seed)) for seed in range(10)])
    assert unrelated + 0.1 < half < measure(*ALIGNED["identical"]()) - 0.02


def test_no_biased_cka_is_offered():
    assert not any("cka" in name and name not in ("debiased_cka", "partial_cka") for name in measures.__all__)
    few = [measures.debiased_cka(*independent(n=10, d=200, seed=seed)) for seed in range(50)]
    assert abs(np.mean(few)) < 0.03


def test_partial_measures_take_out_what_one_variable_aligns():
    a, b, nuisance = confounded()
    given = {"variable": nuisance}
    assert measures.partial_rsa(a, b, given) < 0.3 * measures.rsa(a, b)
    assert abs(measures.partial_cka(a, b, given)) < 0.3 * measures.debiased_cka(a, b)
    assert measures.partial_rsa(a, b, {}) == pytest.approx(measures.rsa(a, b))


def test_direct_retrieval_and_distances():
    a, b = ALIGNED["scaled"]()
    assert measures.direct_retrieval(a, b) == {"percentile": 1, "top1": 1, "top5": 1}
    values = np.random.default_rng(0).normal(size=(60, 3))
    expected = spearmanr(pdist(a), pdist(values)).statistic
    assert measures.rsa_with_distances(a, squareform(pdist(values))) == pytest.approx(expected)
    assert measures.rsa(a, values, distance="euclidean") == pytest.approx(expected)
