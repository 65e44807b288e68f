import jiwer
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from d2v_train.alignment import nuisance


NAMES = ["black stork", "black widow", "Airedale terrier", "cat", "black-footed ferret"]


def test_edit_distances_are_those_of_an_independent_implementation():
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcd"), random.integers(1, 9))) for _ in range(30)]
    matrix = nuisance.edit_distances(words)
    for i, first in enumerate(words):
        for j, second in enumerate(words):
            result = jiwer.process_characters(first, second)
            edits = result.substitutions + result.insertions + result.deletions
            assert matrix[i, j] == pytest.approx(edits / max(len(first), len(second)))
    assert nuisance.edit_distance(["d", "ɔː", "ɡ"], ["l", "ɔː", "ɡ"]) == 1
    assert nuisance.edit_distance("", "abc") == 3


def test_words_that_names_share():
    matrix = nuisance.shared_words(NAMES)
    assert matrix[0, 1] == pytest.approx(2 / 3) and matrix[0, 4] == pytest.approx(3 / 4)
    assert matrix[0, 0] == 0 and matrix[2, 3] == 1
    np.testing.assert_array_equal(nuisance.without_shared_words(NAMES), [2, 3])
    counts = nuisance.word_counts(NAMES)
    assert counts.shape == (5, 8) and (counts @ counts.T)[0, 1] == 1


def test_differences_are_distances():
    values = np.random.default_rng(0).random((6, 3))
    np.testing.assert_allclose(nuisance.differences(values), cdist(values, values), atol=1e-12)
    np.testing.assert_allclose(nuisance.differences([3, 5, 1]), [[0, 2, 2], [2, 0, 4], [2, 4, 0]])
    np.testing.assert_allclose(nuisance.log_differences([0, 9])[0, 1], np.log(10))
    with pytest.raises(ValueError, match="finite numbers"):
        nuisance.differences([np.nan, 1])


def test_groups_hold_concepts_that_are_alike():
    values = np.random.default_rng(0).permutation(22).astype(float)
    labels = nuisance.alike_groups({"value": nuisance.differences(values)})
    sizes = np.bincount(labels)
    assert len(sizes) == 5 and sizes.min() == 4 and sizes.sum() == 22
    within = [np.ptp(values[labels == label]) for label in range(5)]
    assert np.mean(within) < 10
    np.testing.assert_array_equal(nuisance.alike_groups({"value": np.ones((3, 3))}), [0, 0, 0])


def test_the_nuisances_of_names_and_items():
    found = nuisance.name_nuisances(NAMES, frequencies=[1, 2, 3, 4, 5], phonemes=[list(name) for name in NAMES])
    assert list(found) == ["letters", "length", "shared_words", "frequency", "phonemes"]
    assert all(matrix.shape == (5, 5) and (matrix == matrix.T).all() for matrix in found.values())
    assert list(nuisance.name_nuisances(["cat", "dog", "bird"])) == ["letters", "length"]
    colours = nuisance.item_nuisances({"colour": np.eye(3), "duration": np.arange(3.0)})
    assert colours["colour"][0, 1] == pytest.approx(np.sqrt(2)) and colours["duration"][0, 2] == 2
