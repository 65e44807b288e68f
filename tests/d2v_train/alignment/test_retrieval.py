import numpy as np
import pytest
from alignment_cases import ALIGNED, half_shared, independent
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from d2v_train.alignment.retrieval import DirectRetrieval, MapRetrieval, rank_credits


def oracle(a, b, statistic, ridge):
    """Ranks of held-out concepts by scikit-learn's ridge regression, on the folds of the statistic."""
    ranks, candidates = [], []
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    for train, test in statistic.parts:
        spread = ((a[train] - a[train].mean(axis=0)) ** 2).sum() / len(train)
        model = Ridge(alpha=ridge * spread).fit(a[train], b[train])
        mean = b[train].mean(axis=0)
        similarities = cosine_similarity(model.predict(a[test]) - mean, b[test] - mean)
        right = np.diag(similarities)[:, None]
        ranks += list((similarities > right).sum(axis=1))
        candidates += [len(test)] * len(test)
    ranks, candidates = np.array(ranks), np.array(candidates)
    return [np.mean(1 - ranks / (candidates - 1)), np.mean(ranks < 1), np.mean(ranks < 5)]


@pytest.mark.parametrize("make", [half_shared, independent])
@pytest.mark.parametrize("folds, ridge", [(5, 1.0), (7, 0.01)])
def test_retrieval_after_a_map_is_that_of_scikit_learn(make, folds, ridge):
    a, b = make(n=61)
    statistic = MapRetrieval(a, b, folds=folds, ridge=ridge)
    np.testing.assert_allclose(statistic.statistics()[:, 0, 0], oracle(a, b, statistic, ridge))


@pytest.mark.parametrize("make", ALIGNED.values(), ids=list(ALIGNED))
def test_a_map_finds_every_concept_of_the_same_space(make):
    percentile, top1, _ = MapRetrieval(*make(n=200), ridge=0.01).statistics()[:, 0, 0]
    assert percentile == top1 == 1


def test_unrelated_modalities_score_chance():
    results = [MapRetrieval(*independent(seed=seed)) for seed in range(40)]
    means = np.mean([result.statistics()[:, 0, 0] for result in results], axis=0)
    np.testing.assert_allclose(means, list(results[0].chance().values()), atol=0.03)
    assert results[0].chance() == pytest.approx({"percentile": 0.5, "top1": 1 / 12, "top5": 5 / 12})
    assert means[0] + 0.2 < MapRetrieval(*half_shared(n=200)).scores() < 1


def test_a_map_from_one_variable_does_not_tell_concepts_of_a_group_apart():
    """Concepts of four groups that share the group alone: the group is found, the concept within it by chance."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 50)
    a, b = (10 * random.normal(size=(4, 16))[group] + random.normal(size=(200, 16)) for _ in range(2))
    percentile, top1, _ = MapRetrieval(a, b).statistics()[:, 0, 0]
    assert percentile == pytest.approx(1 - 0.25 / 2, abs=0.03)
    assert top1 == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("statistic", ["percentile", "top1", "top5"])
def test_a_permutation_of_indices_is_that_of_the_features(statistic):
    (a, b), (c, d) = half_shared(seed=1), half_shared(d=8, seed=2)
    order = np.random.default_rng(0).permutation(60)
    moved = MapRetrieval([a, c], [b[order], d[order], a[order]], statistic=statistic).scores()
    result = MapRetrieval([a, c], [b, d, a], statistic=statistic).permuted(order)
    np.testing.assert_allclose(result, moved)
    direct = DirectRetrieval([a, b], [b, a, -a], statistic=statistic).permuted(order)
    moved = DirectRetrieval([a, b], [b[order], a[order], -a[order]], statistic=statistic).scores()
    np.testing.assert_allclose(direct, moved, atol=1e-6)


@pytest.mark.parametrize("measure", [MapRetrieval, DirectRetrieval])
def test_a_subset_is_a_study_of_its_own(measure):
    a, b = half_shared()
    chosen = np.sort(np.random.default_rng(0).choice(60, 30, replace=False))
    statistic = measure(a, b)
    if measure is MapRetrieval:
        expected = measure(a[chosen], b[chosen]).scores()
    else:
        similarities = cosine_similarity(a - a.mean(axis=0), b - b.mean(axis=0))[np.ix_(chosen, chosen)]
        expected = 1 - (similarities > np.diag(similarities)[:, None]).sum(axis=1).mean() / 29
    assert statistic.subsets(chosen[None]).item() == pytest.approx(np.asarray(expected).item())


@pytest.mark.parametrize("measure", [MapRetrieval, DirectRetrieval])
def test_features_without_information_score_chance(measure):
    constant = np.zeros((60, 16))
    statistic = measure(constant, independent()[1])
    np.testing.assert_allclose(statistic.statistics()[:, 0, 0], list(statistic.chance().values()), rtol=1e-6)


def test_direct_retrieval_needs_the_same_directions_not_the_same_mean():
    assert DirectRetrieval(*ALIGNED["scaled"]()).scores() == 1
    (a, b) = ALIGNED["rotated"](n=200)
    assert DirectRetrieval(a, b).scores() < 0.8
    a, b = independent(n=200)
    np.testing.assert_allclose(DirectRetrieval(a, b).statistics()[:, 0, 0], [0.5, 0.005, 0.025], atol=0.06)
    with pytest.raises(ValueError, match="8, 16 features"):
        DirectRetrieval(a, b[:, :8])


def test_credits_of_ties_are_expectations():
    np.testing.assert_allclose(rank_credits(np.array([0, 1, 4]), np.array([1, 0, 3]), 10)[1], [0.5, 0, 0])
    np.testing.assert_allclose(rank_credits(np.array([0, 1, 4]), np.array([1, 0, 3]), 10)[2], [1, 1, 0.25])


@pytest.mark.parametrize(
    "settings, message",
    [({"folds": 31}, "from 2 to 30"), ({"ridge": 0}, "positive"), ({"statistic": "top3"}, "'top3' is unknown")],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        MapRetrieval(*independent(), **settings)
