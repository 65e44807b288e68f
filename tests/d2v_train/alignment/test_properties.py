"""Properties of examples and words become distances, as far as all concepts have them."""

import numpy as np
import pytest
from concept_folder import WORDS, write_concepts

from d2v_train.alignment import properties
from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.properties import measure_properties, nuisance_matrices, phonemes_of
from d2v_train.alignment.protocol import NUISANCES


@pytest.fixture
def table(tmp_path):
    return load_concepts(write_concepts(tmp_path / "concepts"))


def test_colour_and_duration(table):
    found = measure_properties(table)
    assert found["duration"]["bridge"] == pytest.approx([0.2])
    assert found["duration"]["wheel"] == pytest.approx([4600 / 16_000])
    brightness = [found["colour"][word].mean() for word in WORDS]
    assert brightness == sorted(brightness) and 0 < brightness[0] < brightness[-1] < 1


def test_matrices_of_all_concepts(table, monkeypatch):
    monkeypatch.setattr(properties, "phonemes_of", lambda words: [list(word) for word in words])
    matrices = nuisance_matrices(table.concepts, measure_properties(table), NUISANCES)
    assert set(matrices) == set(NUISANCES)
    for matrix in matrices.values():
        assert matrix.shape == (8, 8) and np.allclose(matrix, matrix.T) and not np.diag(matrix).any()
    assert matrices["duration"][0, 7] == pytest.approx(1400 / 16_000)
    assert set(nuisance_matrices(table.concepts, {}, ["letters"])) == {"letters"}


def test_what_a_concept_lacks_is_left_out(table):
    table.concepts[0].corpus_sentences = None
    found = measure_properties(table)
    del found["colour"]["dog"]
    assert set(nuisance_matrices(table.concepts, found, ["frequency", "colour", "length"])) == {"length"}


def test_phonemes_of_the_synthesiser(tmp_path, monkeypatch):
    program = tmp_path / "espeak-ng"
    program.write_text("#!/bin/sh\ncat > /dev/null\necho 'd_ˈɑː_ɡ'\necho 'ˈaɪ_s k_ɹ_ˈiː_m'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert phonemes_of(["dog", "ice cream"]) == [["d", "ɑː", "ɡ"], ["aɪ", "s", "k", "ɹ", "iː", "m"]]
    assert phonemes_of(["dog"]) is None


def test_without_the_synthesiser(monkeypatch, caplog):
    monkeypatch.setattr(properties.shutil, "which", lambda name: None)
    assert phonemes_of(["dog"]) is None and "espeak-ng is not installed" in caplog.text
