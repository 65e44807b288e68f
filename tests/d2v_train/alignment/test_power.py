import numpy as np
import pytest
from alignment_cases import half_shared, independent

from d2v_train.alignment.power import power_curve


def test_power_rises_with_the_number_of_concepts():
    a, b = half_shared(n=100, d=8)
    noise = np.random.default_rng(0).normal(size=b.shape)
    points = power_curve("cka", a, b + 2 * noise, sizes=(8, 20, 60, 500), subsets=20, permutations=99)
    assert [point.concepts for point in points] == [8, 20, 60]
    assert points[0].power < 0.5 < 0.9 <= points[2].power
    assert all(point.score == pytest.approx(points[2].score, abs=0.1) for point in points)


def test_unrelated_modalities_are_found_at_the_level():
    points = power_curve("mutual_knn", *independent(n=100), sizes=(10, 30), subsets=60, permutations=99)
    assert all(point.power <= 0.15 and point.score == pytest.approx(point.null, abs=0.05) for point in points)
    # Three neighbours up to 20 concepts, ten above.
    assert [point.null for point in points] == pytest.approx([3 / 9, 10 / 29], abs=0.02)
