"""Maps show the scores of all layer pairs beside those of untrained networks and of chance."""

import numpy as np
import pytest

from d2v_train.alignment.report.layers import layer_maps, probes
from d2v_train.alignment.report.views import mean_of
from d2v_train.alignment.results import Probe


def test_maps_of_every_pair_have_the_same_colours(page):
    content = layer_maps(page)
    for name in ("trained", "untrained", "chance"):
        assert content.count(f'class="name">{name}</text>') == 3 * 5  # pairs, measures
    tables = page.tables(page.of_kind("joint"), ("vision", "audio"), "mutual_knn")
    expected = mean_of(tables, "score")
    assert f"picture layer 1, speech layer 2: {expected[1, 2]:.3f}" in content
    assert "mean of 2 joint models" in content


def test_the_curve_is_the_diagonal_with_its_interval(page):
    content = layer_maps(page)
    tables = page.tables(page.of_kind("joint"), ("audio", "text"), "mutual_knn")
    for layer, value in enumerate(np.diag(mean_of(tables, "score"))):
        assert f"<title>trained, {layer}: {value:.3f}</title>" in content
    assert content.count("<polygon") >= 6


def test_layers_of_words_are_compared_by_number(page):
    layers = [*(f"word {i}" for i in range(3)), *(f"sentence {i}" for i in range(3))]
    for model in page.study.models:
        model.layers["text"] = layers
    for table in page.study.tables:
        if table.second == "text":
            for name in ("score", "null_mean", "null_std", "p", "z", "low", "high"):
                values = getattr(table, name)
                setattr(table, name, values and [[*row, *row] for row in values])
    for row in page.study.primary:
        if row.second == "text":
            row.layers = (row.layers[0], "sentence 2")
    tables = page.tables(page.of_kind("joint"), ("vision", "text"), "mutual_knn")
    for table in tables:
        table.score[1][4] = 0.4321
    content = layer_maps(page)
    assert "<title>trained, 1: 0.432</title>" in content and ">sentence</text>" in content


def test_nothing_is_drawn_without_tables(page):
    page.study.tables = []
    assert layer_maps(page) is None


def test_the_best_pair_is_reported_with_its_correction(page):
    best = page.study.best[0]
    content = layer_maps(page)
    assert (
        best.measure == "mutual_knn"
        and f"p = {best.p:.3f}" in content
        and "corrected for having been chosen" in content
    )


def test_probes_are_means_over_seeds_with_their_range(page):
    page.study.probes = [
        Probe(model=f"joint {seed}", modality="vision", layer=f"layer {layer}", accuracy=accuracy, chance=0.1, n=10)
        for seed, accuracies in enumerate(([0.2, 0.4], [0.4, 0.5]))
        for layer, accuracy in enumerate(accuracies)
    ]
    content = probes(page)
    assert "<title>joint, 0: 0.300</title>" in content and "<title>joint, 1: 0.450</title>" in content
    assert "pictures, n = 10: the highest accuracy is 0.450 (joint), chance is 0.100." in content
    page.study.probes = []
    assert probes(page) is None


@pytest.mark.parametrize("kind", ["word", "sentence"])
def test_kinds_of_layers_have_charts_of_their_own(page, kind):
    page.study.probes = [
        Probe(model="joint 0", modality="text", layer=f"{each} {layer}", accuracy=0.2, chance=0.1, n=10)
        for each in ("word", "sentence")
        for layer in range(2)
    ]
    assert f"sentences, of the {kind}, n = 10" in probes(page)
