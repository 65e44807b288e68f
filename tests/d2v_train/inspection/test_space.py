"""Gap and principal components of constructed points."""

import numpy as np
import pytest

from d2v_train.inspection.space import find_space, modality_gap, principal_components


def test_the_gap_is_the_distance_in_units_of_the_spread():
    points = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])  # spread 1
    assert modality_gap(points, points + [3.0, 4.0]) == pytest.approx(5)
    assert modality_gap(points, 2 * points) == pytest.approx(0)
    assert modality_gap(10 * points, 10 * points + [30.0, 40.0]) == pytest.approx(5)


def test_principal_components_keep_the_distances_of_a_plane():
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(20, 2)) * [5, 1]
    turn, _ = np.linalg.qr(generator.normal(size=(6, 2)))
    found, explained = principal_components(plane @ turn.T + 7)
    assert sum(explained) == pytest.approx(1) and explained[0] > explained[1]
    expected = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    assert np.linalg.norm(found[:, None] - found[None], axis=2) == pytest.approx(expected)
    flipped, _ = principal_components(-(plane @ turn.T))
    assert np.abs(flipped).max(axis=0) == pytest.approx(flipped.max(axis=0))


def test_points_in_one_place_have_no_components():
    assert principal_components(np.ones((3, 4)))[1] == [0, 0]


def test_points_are_means_of_concepts_and_centring_closes_the_gap():
    generator = np.random.default_rng(0)
    concepts = np.repeat(np.arange(3), 4)
    own = generator.normal(size=(3, 8))
    states = {"vision": own[concepts], "audio": own[concepts] + 20.0}
    space = find_space(states, {name: concepts for name in states}, ["a", "b", "c"], "layer 1")
    assert space.layer == "layer 1" and space.gap["vision audio"] > 5
    vision, audio = (np.array(space.points[name]) for name in states)
    assert vision.shape == (3, 2) and np.linalg.norm(vision - audio, axis=1).min() > 10
    assert space.centred["vision"] == pytest.approx(np.array(space.centred["audio"]), abs=1e-5)
    with pytest.raises(ValueError, match="no audio item of 'd'"):
        find_space({**states, "vision": np.ones((4, 8))}, {"vision": np.arange(4), "audio": concepts}, [*"abcd"], "0")
