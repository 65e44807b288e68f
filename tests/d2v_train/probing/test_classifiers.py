"""Probes on data whose answer is known."""

import numpy as np
import pytest
from scipy import sparse

from d2v_train.probing import classifiers as probes
from d2v_train.probing.classifiers import (
    chance_accuracy,
    draw_few,
    few_label_accuracy,
    held_out_masks,
    knn_accuracy,
    linear_accuracy,
    standardise_features,
)


def clusters(per_class=60, classes=4, width=8, distance=6.0, seed=0):
    """Gaussian clusters of unit variance whose centres lie `distance` from the origin along axes of their own."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    features = generator.normal(size=(len(labels), width)).astype(np.float32)
    features[np.arange(len(labels)), labels] += distance
    order = generator.permutation(len(labels))
    return features[order], labels[order]


def noise(samples, classes=4, width=8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(samples, width)).astype(np.float32), generator.integers(0, classes, samples)


def split(features, labels, at=160):
    return features[:at], labels[:at], features[at:], labels[at:]


def test_separable_clusters_are_solved_by_every_probe():
    data = split(*clusters())
    assert knn_accuracy(*data, k=10) == 100.0
    assert linear_accuracy(*data) == 100.0
    assert few_label_accuracy(*data, seeds=(0, 1)).mean == 100.0


def test_features_without_information_stay_near_chance():
    data = split(*noise(2000), at=1000)
    for accuracy in (knn_accuracy(*data), linear_accuracy(*data), few_label_accuracy(*data).mean):
        assert abs(accuracy - 25.0) < 6.0


def test_xor_is_beyond_the_linear_probe_but_not_beyond_knn():
    points = np.random.default_rng(0).uniform(-1, 1, size=(1200, 2)).astype(np.float32)
    labels = (points[:, 0] * points[:, 1] > 0).astype(int)
    data = split(points, labels, at=900)
    assert linear_accuracy(*data) < 65.0
    assert knn_accuracy(*data, k=5) > 90.0


def test_knn_agrees_with_a_loop_written_from_the_definition():
    features, labels = clusters(distance=1.5)
    train, train_labels, test, test_labels = split(features, labels)
    a, b = standardise_features(train, test)
    correct = 0
    for row, label in zip(b, test_labels, strict=True):
        cosine = a @ row / (np.linalg.norm(a, axis=1) * np.linalg.norm(row))
        nearest = np.argsort(-cosine)[:7]
        of_class = [cosine[nearest][train_labels[nearest] == c] for c in range(4)]
        votes = {c: (len(similar), similar.sum()) for c, similar in enumerate(of_class)}
        correct += max(votes, key=votes.get) == label
    expected = 100.0 * correct / len(test_labels)
    assert 40 < expected < 95
    assert knn_accuracy(train, train_labels, test, test_labels, k=7, chunk=9) == pytest.approx(expected)


def test_knn_takes_all_neighbours_when_there_are_fewer_than_k():
    train = np.eye(3, dtype=np.float32)
    assert knn_accuracy(train, [5, 7, 9], train, [5, 7, 9], k=1) == 100.0
    assert 0.0 <= knn_accuracy(train, [5, 7, 9], train, [5, 7, 9], k=50) <= 100.0


def test_scale_and_offset_of_features_do_not_matter():
    features, labels = clusters(distance=1.5)
    scaled = features * np.logspace(-3, 3, features.shape[1]) + 100.0
    for probe in (knn_accuracy, linear_accuracy):
        assert probe(*split(features, labels)) == pytest.approx(probe(*split(scaled, labels)), abs=2.0)


def test_standardisation_uses_training_statistics_only():
    train, test = standardise_features(np.array([[0.0], [2.0]]), np.array([[101.0]]))
    np.testing.assert_allclose(train, [[-1.0], [1.0]])
    np.testing.assert_allclose(test, [[100.0]])


def test_constant_features_are_harmless():
    features, labels = clusters()
    data = split(np.concatenate([features, np.ones((len(features), 3), np.float32)], axis=1), labels)
    assert knn_accuracy(*data) == 100.0
    assert linear_accuracy(*data) == 100.0


def test_sparse_features_are_solved_by_every_probe():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    counts = generator.poisson(1.0, size=(100, 12)).astype(np.float64)
    counts[labels == 1, :4] += 6.0
    order = generator.permutation(100)
    data = split(counts[order], labels[order], at=70)
    as_sparse = (sparse.csr_array(data[0]), data[1], sparse.csr_array(data[2]), data[3])
    assert knn_accuracy(*as_sparse, k=5) > 90.0
    assert linear_accuracy(*as_sparse) > 90.0
    assert few_label_accuracy(*as_sparse).mean > 80.0


def test_regularisation_that_suits_the_data_is_chosen():
    """Weak signals in many columns want a strong penalty; three rare classes vanish under one."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 2000)
    weak = generator.normal(size=(2000, 300)).astype(np.float32) + 0.05 * (2 * labels[:, None] - 1)
    rare = np.where(generator.random(2000) < 0.7, 0, generator.integers(1, 4, 2000))
    clear = generator.normal(size=(2000, 4)).astype(np.float32)
    clear[np.arange(2000), rare] += 4.0
    for features, classes, better, worse in ((weak, labels, 0.01, 1000.0), (clear, rare, 3.0, 1e-5)):
        data = split(features, classes, at=500)
        alone = linear_accuracy(*data, grid=(better,))
        assert alone > linear_accuracy(*data, grid=(worse,)) + 2.0
        assert linear_accuracy(*data, grid=(worse, better)) == linear_accuracy(*data, grid=(better, worse)) == alone


def test_weak_regularisation_is_left_out_once_the_held_out_score_fell_twice(monkeypatch):
    """The candidates count, whatever their order; a score that falls once and rises again is followed on."""
    tried = []

    class Scored:
        def __init__(self, c):
            self.c = c

        def score(self, features, labels):
            return scores[self.c]

    monkeypatch.setattr(probes, "_fit", lambda features, labels, c: tried.append(c) or Scored(c))
    data = split(*clusters())
    scores = {0.1: 0.6, 1.0: 0.5, 10.0: 0.4, 100.0: 0.9}
    assert linear_accuracy(*data, grid=(100.0, 1.0, 0.1, 10.0)) == 60.0
    assert tried == [0.1, 1.0, 10.0, 0.1]
    tried.clear()
    scores = {0.1: 0.6, 1.0: 0.5, 10.0: 0.5, 100.0: 0.9}
    assert linear_accuracy(*data, grid=(0.1, 1.0, 10.0, 100.0)) == 90.0
    assert tried == [0.1, 1.0, 10.0, 100.0, 100.0]


def test_held_out_samples_are_whole_groups_in_turn_or_stratified():
    labels = np.repeat(np.arange(5), 40)
    groups = np.array(["a", "b", "c", "d", "e", "f", "g", "h"] * 25)
    masks = held_out_masks(labels, groups.tolist())
    assert len(masks) == 5 and (np.sum(masks, axis=0) == 1).all()
    for mask in masks:
        assert set(groups[mask]).isdisjoint(groups[~mask])
    (stratified,) = held_out_masks(labels)
    assert (np.bincount(labels[stratified]) == 8).all()
    assert (held_out_masks(labels, [None] * 200)[0] == stratified).all()


def test_groups_change_what_regularisation_is_best():
    """Every group has its own offset in columns that tell its labels: of use inside a group, misleading outside."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 1200)
    groups = np.repeat(np.arange(6), 200)
    features = generator.normal(size=(1200, 60)).astype(np.float32)
    features += 0.15 * (2 * labels[:, None] - 1)
    features[:, :36] += generator.choice([-1.0, 1.0], size=(6, 36))[groups] * (2 * labels[:, None] - 1)
    data = split(features, labels, at=1000)
    names = [f"g{group}" for group in groups[:1000]]
    grid = (0.0003, 3.0)
    assert linear_accuracy(*data, grid=grid, groups=names) == linear_accuracy(*data, grid=grid[:1])
    assert linear_accuracy(*data, grid=grid) == linear_accuracy(*data, grid=grid[1:])


def test_few_label_draws_are_stratified_and_differ_by_seed():
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 9], [200, 50, 6]))
    draws = [draw_few(labels, 10, seed) for seed in range(3)]
    for chosen in draws:
        assert len(set(chosen.tolist())) == len(chosen)
        assert dict(zip(*np.unique(labels[chosen], return_counts=True), strict=True)) == {3: 10, 5: 10, 9: 6}
    assert not np.array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[2], draw_few(labels, 10, 2))


def test_few_label_result_summarises_its_draws():
    result = few_label_accuracy(*split(*clusters(distance=1.0)), per_class=3, seeds=(4, 5, 6))
    assert len(result.per_seed) == 3 and result.std > 0
    assert result.mean == pytest.approx(np.mean(result.per_seed))
    again = few_label_accuracy(*split(*clusters(distance=1.0)), per_class=3, seeds=(4, 5, 6))
    assert again == result


def test_more_labels_help():
    data = split(*clusters(distance=1.0, per_class=200), at=400)
    assert few_label_accuracy(*data, per_class=2).mean < few_label_accuracy(*data, per_class=50).mean


def test_chance_is_the_commonest_training_label():
    assert chance_accuracy([1, 1, 0], [1, 0, 0, 0]) == 25.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), [0, 1, 1], np.ones((0, 2)), []), "test part"),
        ((np.ones((3, 2)), [0, 1], np.ones((1, 2)), [0]), "3 features.*2 labels"),
        ((np.ones((3, 2)), [0, 1, 1], np.ones((1, 3)), [0]), "2 columns.*3"),
        ((np.full((3, 2), np.nan), [0, 1, 1], np.ones((1, 2)), [0]), "NaN"),
        ((np.ones((3, 2)), [4, 4, 4], np.ones((1, 2)), [4]), "classes"),
    ],
)
def test_unusable_input_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        linear_accuracy(*arguments)


def test_impossible_options_are_explained():
    data = split(*clusters())
    with pytest.raises(ValueError, match="at least 1"):
        knn_accuracy(*data, k=0)
    with pytest.raises(ValueError, match="at least 1"):
        draw_few(data[1], 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        few_label_accuracy(*data, seeds=())
    with pytest.raises(ValueError, match="grid"):
        linear_accuracy(*data, grid=())
