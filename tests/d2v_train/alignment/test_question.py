"""The question about one concept: right ranks in cases that are known, a null that permutes concepts."""

import numpy as np
import pytest

from d2v_train.alignment.question import (
    ask,
    levels_of,
    mapped_similarities,
    neighbours_of,
    percentiles,
    ranks_of,
)


NAMES = [f"concept {i}" for i in range(40)]
GROUPS = ["animal/mammal"] * 5 + ["animal/bird"] * 5 + ["artifact"] * 30
WHERE = {"model": "joint 0", "first": "vision", "second": "audio", "layers": ("layer 4", "layer 4")}


def concepts(seed=0, width=12):
    return np.random.default_rng(seed).normal(size=(40, width))


def rotated(matrix, seed=1):
    return matrix @ np.linalg.qr(np.random.default_rng(seed).normal(size=(matrix.shape[1],) * 2))[0]


def asked(first, second, method):
    exemplars = first[3] + np.random.default_rng(2).normal(size=(6, first.shape[1])) * 0.1
    labels = [f"{i}.jpg" for i in range(6)]
    return ask(NAMES[3], NAMES, GROUPS, exemplars, labels, first, second, method=method, permutations=99, where=WHERE)


def test_a_shared_space_is_found_without_a_map():
    question = asked(concepts(), concepts() + 5.0, "direct")
    assert question.exemplar_ranks == [1] * 6 and question.mean_rank == 1.0
    assert question.nearest[0] == NAMES[3]
    assert question.p < 0.1 and question.levels[0].mean_percentile == 1.0


def test_a_rotated_space_needs_a_map():
    first = concepts()
    assert asked(first, rotated(first), "map").mean_rank == 1.0
    direct = [asked(first, rotated(first, seed), "direct").mean_rank for seed in range(20)]
    assert 12 < np.mean(direct) < 29


def test_unrelated_modalities_have_uniform_p_values():
    p = [asked(concepts(seed), concepts(seed + 100), method).p for seed in range(20) for method in ("map", "direct")]
    assert 0.35 < np.mean(p) < 0.65
    assert min(p) > 0.005


def test_the_map_never_sees_the_concept():
    first, second = concepts(), concepts(7)
    similarities = mapped_similarities(first[3:4], first, second, 3)
    changed = second.copy()
    changed[3] += 100
    again = mapped_similarities(first[3:4], first, changed, 3)
    others = np.arange(40) != 3
    np.testing.assert_allclose(similarities[0, others], again[0, others])


def test_a_group_that_lies_together_is_not_taken_for_meaning():
    # The groups are clusters in the second modality, and the first one knows nothing of them.
    p = []
    for seed in range(40):
        random = np.random.default_rng(seed)
        clusters = random.normal(size=(3, 12)) * 3
        second = clusters[[0] * 5 + [1] * 5 + [2] * 30] + random.normal(size=(40, 12))
        question = ask(NAMES[3], NAMES, GROUPS, concepts(seed + 50)[3:4], ["0.jpg"], concepts(seed + 50), second,
                       method="direct", permutations=99, where=WHERE)  # fmt: skip
        p.append(question.levels[1].p)
    assert np.mean(np.array(p) < 0.1) < 0.25 and 0.3 < np.mean(p) < 0.7


def test_groups_from_narrow_to_wide():
    levels = levels_of(GROUPS, 2)
    assert {name: int(members.sum()) for name, members in levels.items()} == {
        "itself": 1, "animal/mammal": 4, "other animal": 5, "everything else": 30}  # fmt: skip
    assert sum(members.astype(int) for members in levels.values()).tolist() == [1] * 40
    assert list(levels_of([""] * 40, 2)) == ["itself", "everything else"]


def test_ties_share_the_middle():
    similarities = np.array([[0.5, 0.9, 0.5, 0.1]])
    assert ranks_of(similarities, 0)[0] == 2.5
    np.testing.assert_allclose(percentiles(similarities[0]), [0.5, 1.0, 0.5, 0.0])


def test_neighbours_hit_in_a_shared_space():
    found = neighbours_of(NAMES, concepts(), concepts() * 2, method="direct", where=WHERE)
    assert all(neighbour.hit and neighbour.neighbours[0] == neighbour.concept for neighbour in found)
    unrelated = neighbours_of(NAMES, concepts(), concepts(9), method="map", where=WHERE)
    assert sum(neighbour.hit for neighbour in unrelated) < 6
    assert all(len(neighbour.neighbours) == 5 for neighbour in unrelated)


def test_an_unknown_concept():
    with pytest.raises(ValueError, match="no concept 'cat' in both modalities"):
        ask("cat", NAMES, GROUPS, concepts()[:2], ["a", "b"], concepts(), concepts(), method="map", permutations=9,
            where=WHERE)  # fmt: skip
