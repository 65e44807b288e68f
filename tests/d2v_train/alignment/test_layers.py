import numpy as np
import pytest
import torch
from alignment_cases import confounded, half_shared, independent
from calibrated_similarity import calibrate_layers

from d2v_train.alignment.layers import MEASURES, align, contrast, null_scores, prepare
from d2v_train.alignment.measures import mutual_knn
from d2v_train.alignment.nulls import draw_permutations, p_values


def layers_of(n, count, d, seed):
    """Layers that resemble one another as those of a network do."""
    random = np.random.default_rng(seed)
    layers = [random.normal(size=(n, d))]
    for _ in range(count - 1):
        layers.append(0.8 * layers[-1] + 0.6 * random.normal(size=(n, d)))
    return layers


def test_the_maximum_is_calibrated_as_in_calibrated_similarity():
    a, b = layers_of(30, 3, 8, 0), layers_of(30, 2, 8, 1)
    b[1] = a[2] + b[1]
    remaining = iter(draw_permutations(30, 99, seed=5))
    expected = calibrate_layers(
        [torch.from_numpy(x) for x in a],
        [torch.from_numpy(x) for x in b],
        lambda x, y: mutual_knn(x.numpy(), y.numpy(), k=3),
        K=99,
        perm_fn=lambda n, device: torch.from_numpy(next(remaining)),
    )
    result = align("mutual_knn", a, b, k=3, permutations=99, draws=0, seed=5)
    found = [result.maximum.above_threshold, result.maximum.p_value, result.maximum.threshold]
    np.testing.assert_allclose(found, [float(value) for value in expected], atol=1e-6)
    assert result.best == (2, 1)


@pytest.mark.parametrize("measure", ["mutual_knn", "cka", "rsa"])
def test_the_maximum_over_144_layer_pairs_holds_its_level(measure):
    """Without the correction, the best of the pairs would be below .05 in most draws."""
    found, uncorrected = [], []
    for seed in range(100):
        statistic = prepare(measure, layers_of(24, 12, 8, seed), layers_of(24, 12, 8, 1000 + seed))
        scores, null = statistic.scores(), null_scores(statistic, draw_permutations(24, 99, seed=seed))
        found.append(p_values(scores.max(), null.max(axis=(1, 2))))
        uncorrected.append(p_values(scores, null).min())
    # 10 of 100 at level .05 has probability .03.
    assert np.mean(np.array(found) <= 0.05) <= 0.1
    assert np.mean(np.array(uncorrected) <= 0.05) > 0.4


@pytest.mark.parametrize("measure", list(MEASURES))
def test_every_measure_tells_shared_layers_from_others(measure):
    a, b = half_shared()
    other = independent(seed=7)
    if measure == "direct":
        b = a + other[0]
    settings = {"k": 2} if measure == "cycle_knn" else {}
    result = align(measure, [a, other[0]], [other[1], b], permutations=99, draws=20, **settings)
    assert result.scores.shape == result.p_values.shape == result.low.shape == (2, 2)
    assert result.best == (0, 1) and result.maximum.p_value == 0.01
    assert (result.corrected_p_values >= result.p_values).all()
    assert result.corrected_p_values[0, 1] == 0.01
    assert result.corrected_p_values[:, 0].min() > 0.05
    assert (result.low <= result.scores).all() and (result.scores <= result.high).all()
    np.testing.assert_allclose(result.calibrated, (result.scores - result.null_mean) / result.null_std)
    assert result.interval.draws == 20 and result.concepts == 60
    assert align(measure, a, b, permutations=9, draws=0, **settings).interval is None


def test_retrieval_names_its_other_statistics_and_chance():
    result = align("retrieval", *half_shared(), permutations=9, draws=0)
    assert result.extra["chance"]["top1"] == pytest.approx(1 / 12)
    assert result.extra["top1"].shape == (1, 1)
    assert result.settings == {"folds": 5, "ridge": 1.0, "statistic": "percentile"}
    assert result.smallest_p_value == 0.1


@pytest.mark.parametrize("measure", ["cka", "rsa"])
def test_partial_measures_hold_their_level_when_one_variable_aligns_the_modalities(measure):
    plain, partial = [], []
    for seed in range(100):
        a, b, nuisance = confounded(n=40, seed=seed)
        for found, nuisances in ((plain, None), (partial, {"variable": nuisance})):
            result = align(measure, a, b, nuisances=nuisances, permutations=99, draws=0, seed=seed)
            found.append(result.maximum.p_value)
    assert np.mean(np.array(plain) <= 0.05) > 0.9
    assert np.mean(np.array(partial) <= 0.05) <= 0.1


def test_a_contrast_means_over_seeds():
    a, b = half_shared()
    untrained = [independent(seed=seed) for seed in range(3)]
    result = contrast("mutual_knn", [(a, b)], untrained, draws=50)
    assert len(result.untrained) == 3
    assert result.difference == pytest.approx(result.trained[0] - np.mean(result.untrained))
    assert result.interval.low > 0 and result.settings == {"k": 10}


def test_what_cannot_be_compared_is_refused():
    a, b = half_shared()
    with pytest.raises(ValueError, match="'biased_cka' is unknown"):
        prepare("biased_cka", a, b)
    with pytest.raises(ValueError, match="at least one trained"):
        contrast("cka", [(a, b)], [])
    with pytest.raises(ValueError, match="30, 60"):
        contrast("cka", [(a, b)], [half_shared(n=30)])
