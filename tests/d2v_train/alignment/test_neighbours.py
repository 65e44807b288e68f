import numpy as np
import pytest
import torch
from alignment_cases import ALIGNED, half_shared, independent
from sklearn.neighbors import NearestNeighbors

from d2v_train.alignment.neighbours import (
    CycleNeighbours,
    MutualNeighbours,
    nearest_within,
    neighbours_for,
    ranked_neighbours,
)


def oracle(a, b, k):
    """Mutual and cycle kNN from scikit-learn's neighbours, concept by concept."""
    found = []
    for side in (a - a.mean(axis=0), b - b.mean(axis=0)):
        nearest = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(side).kneighbors(return_distance=False)
        found.append(nearest[:, :k])
    first, second = found
    mutual = np.mean([len(set(x) & set(y)) / k for x, y in zip(first, second, strict=True)])
    cycle = np.mean([any(i in first[j] for j in second[i]) for i in range(len(a))])
    return mutual, cycle


def platonic(a, b, k):
    """The formula of the platonic representation hypothesis, in torch, for normalised features."""
    features = [torch.nn.functional.normalize(torch.from_numpy(side - side.mean(axis=0)), dim=-1) for side in (a, b)]
    masks = []
    for side in features:
        similarities = (side @ side.T).fill_diagonal_(-torch.inf)
        masks.append(torch.zeros(len(a), len(a)).scatter_(1, similarities.topk(k, dim=1).indices, 1.0))
    return float(((masks[0] * masks[1]).sum(dim=1) / k).mean())


@pytest.mark.parametrize("make", [half_shared, independent])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_scores_are_those_of_independent_implementations(make, k):
    a, b = make()
    mutual, cycle = oracle(a, b, k)
    assert MutualNeighbours(a, b, k=k).scores() == pytest.approx(mutual)
    assert MutualNeighbours(a, b, k=k).scores() == pytest.approx(platonic(a, b, k))
    assert CycleNeighbours(a, b, k=k).scores() == pytest.approx(cycle)


@pytest.mark.parametrize("make", ALIGNED.values(), ids=list(ALIGNED))
def test_the_same_space_scores_one(make):
    assert MutualNeighbours(*make()).scores() == 1
    assert MutualNeighbours(*make()).settings == {"k": 10}


def test_unrelated_modalities_score_chance_and_half_shared_ones_between():
    chance = np.mean([MutualNeighbours(*independent(seed=seed)).scores() for seed in range(40)])
    assert chance == pytest.approx(10 / 59, abs=0.01)
    assert chance + 0.1 < MutualNeighbours(*half_shared()).scores() < 0.9


@pytest.mark.parametrize("measure", [MutualNeighbours, CycleNeighbours])
def test_a_permutation_of_indices_is_that_of_the_features(measure):
    (a, b), (c, d) = half_shared(seed=1), half_shared(n=60, d=8, seed=2)
    order = np.random.default_rng(0).permutation(60)
    moved = measure([a, c], [b[order], d[order], a[order]], k=4).scores()
    np.testing.assert_allclose(measure([a, c], [b, d, a], k=4).permuted(order), moved)


@pytest.mark.parametrize("measure", [MutualNeighbours, CycleNeighbours])
def test_a_subset_has_neighbours_within_it(measure):
    a, b = half_shared()
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    chosen = np.sort(np.random.default_rng(0).choice(60, 20, replace=False))
    # The oracle centres; the mean of all concepts is kept by adding one concept that balances the subset.
    expected = []
    for side in (a, b):
        unit = side[chosen] / np.linalg.norm(side[chosen], axis=1, keepdims=True)
        similarities = unit @ unit.T
        np.fill_diagonal(similarities, -2)
        expected.append(np.argsort(-similarities, axis=1)[:, :3])
    ranked = np.stack([ranked_neighbours(a, np.random.default_rng(0))])
    np.testing.assert_array_equal(nearest_within(ranked, chosen, 3)[0], expected[0])
    first, second = expected
    if measure is MutualNeighbours:
        score = np.mean([len(set(x) & set(y)) / 3 for x, y in zip(first, second, strict=True)])
    else:
        score = np.mean([any(i in first[j] for j in second[i]) for i in range(20)])
    assert measure(a, b, k=3).subsets(chosen[None]) == pytest.approx(score)


def test_ties_are_broken_differently_in_the_modalities():
    """Features that are all alike have no neighbours in common beyond chance."""
    constant = np.zeros((101, 3))
    scores = [MutualNeighbours(constant, constant, k=10, seed=seed).scores()[0, 0] for seed in range(20)]
    assert np.mean(scores) == pytest.approx(0.1, abs=0.03)


def test_the_number_of_neighbours_is_fixed_by_the_number_of_concepts():
    assert [neighbours_for(n) for n in (10, 20, 21, 1000)] == [3, 3, 10, 10]
    with pytest.raises(ValueError, match="between 1 and 59"):
        MutualNeighbours(*independent(), k=60)
    with pytest.raises(ValueError, match="lower k"):
        MutualNeighbours(*independent()).subsets(np.arange(10)[None])
