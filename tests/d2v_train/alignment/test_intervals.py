import numpy as np
import pytest
from alignment_cases import half_shared, independent

from d2v_train.alignment.intervals import Interval, draw_subsets, interval, interval_ends
from d2v_train.alignment.layers import contrast, prepare


def test_subsets_hold_each_concept_once():
    subsets = draw_subsets(60, 50)
    assert subsets.shape == (50, 48)
    assert (np.diff(subsets, axis=1) > 0).all() and subsets.max() < 60
    assert draw_subsets(5, 3).shape == (3, 4)
    with pytest.raises(ValueError, match="4 concepts are too few"):
        draw_subsets(4, 3)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_interval_of_a_mean_is_that_of_theory(share):
    values = np.random.default_rng(0).normal(size=100)
    subsets = draw_subsets(100, 4000, share=share)
    result = interval(values.mean(), values[subsets].mean(axis=1), 100, subsets.shape[1])
    half = 1.96 * values.std(ddof=1) / 10
    assert result.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_many_scores_at_once():
    replicates = np.random.default_rng(0).normal(size=(100, 2, 3))
    low, high = interval_ends(np.zeros((2, 3)), replicates, 60, 48)
    one = interval(0.0, replicates[:, 1, 2], 60, 48)
    assert (low[1, 2], high[1, 2]) == (one.low, one.high)


def test_zero_outside():
    settings = {"level": 0.95, "draws": 9, "subset": 4}
    ends = [(0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1)]
    assert [Interval(low, high, **settings).excludes_zero for low, high in ends] == [True, True, False]


@pytest.mark.parametrize("measure", ["mutual_knn", "cka", "rsa"])
def test_intervals_hold_the_score_of_the_population_as_often_as_they_say(measure):
    """The score of other concepts of the same kind; nearest neighbours and correlations have no closed form."""
    settings = {"k": 5} if measure == "mutual_knn" else {}
    samples = [half_shared_of_one_kind(seed) for seed in range(60)]
    truth = np.mean([prepare(measure, *pair, **settings).scores()[0, 0] for pair in samples])
    held = []
    for pair in samples:
        statistic = prepare(measure, *pair, **settings)
        subsets = draw_subsets(60, 100)
        around = interval(statistic.scores()[0, 0], statistic.subsets(subsets)[:, 0, 0], 60, subsets.shape[1])
        held.append(around.low <= truth <= around.high)
    assert np.mean(held) > 0.85


def half_shared_of_one_kind(seed):
    a, b = half_shared(n=60, seed=seed)
    return a, b


def test_the_contrast_with_an_encoder_that_is_as_good_holds_zero():
    a, b = half_shared()
    rotated = a @ np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    result = contrast("cka", [(a, b)], [(rotated, b)], draws=100)
    assert result.difference == pytest.approx(0, abs=1e-9)
    assert result.interval.high - result.interval.low == pytest.approx(0, abs=1e-9)
    worse = contrast("cka", [(a, b)], [independent()], draws=100)
    assert worse.interval.low > 0
