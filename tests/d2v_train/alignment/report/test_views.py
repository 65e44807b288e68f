"""Views choose models by kind, seed and twin, and tell layers of equal number."""

import dataclasses

import numpy as np

from d2v_train.alignment.report.views import colour_of, layer_groups, mean_of, measure_name, same_layers, short_layers


def test_the_main_model_is_that_of_the_first_kind_and_the_lowest_seed(page):
    page.study.models = page.study.models[::-1]
    assert page.main_kind == "joint" and page.main_model.name == "joint 0"
    assert {model.name for model in page.twins("joint")} == {"untrained joint 0", "untrained joint 1"}
    assert page.pairs == [("vision", "audio"), ("vision", "text"), ("audio", "text")]
    assert page.primary_measure == "mutual_knn"


def test_tables_of_models_and_their_means(page):
    tables = page.tables(page.of_kind("joint"), ("vision", "audio"), "cka")
    assert {table.model for table in tables} == {"joint 0", "joint 1"}
    expected = (np.array(tables[0].score) + np.array(tables[1].score)) / 2
    assert (mean_of(tables, "score") == expected).all()
    other = dataclasses.replace(tables[1], score=[[1.0]], low=None)
    assert (mean_of([tables[0], other], "score") == np.array(tables[0].score)).all()
    assert mean_of([other], "low") is None and mean_of([], "score") is None


def test_layers_have_numbers_and_kinds():
    text = ["word 0", "word 1", "sentence 0", "sentence 1"]
    assert short_layers(["layer 0", "layer 11"]) == ["0", "11"] and short_layers(["pixels"]) == ["pixels"]
    assert layer_groups(text) == [("word", 2), ("sentence", 2)] and layer_groups(["layer 0", "layer 1"]) == []
    layers = ["layer 0", "layer 1", "layer 2"]
    assert same_layers(layers, text, "sentence 1") == [(0, 2), (1, 3)]
    assert same_layers(layers, layers, "layer 2") == [(0, 0), (1, 1), (2, 2)]


def test_names_and_colours():
    assert measure_name("mutual_knn", {"k": 5}) == "mutual nearest neighbours, k = 5"
    assert measure_name("own") == "own" and colour_of("joint") == "var(--joint)"
    assert colour_of("anything") == "var(--encoder)"
