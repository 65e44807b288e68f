"""`d2v align` runs a whole study, of its own models and of encoders of transformers, and says what is wrong."""

import html
import json
import subprocess
import sys

import pytest
from concept_folder import WORDS, write_concepts, write_preregistration
from probed_model import save_model

from d2v_train.alignment.results import Study
from d2v_train.programs import align


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align")
    save_model(folder / "model")
    write_concepts(folder / "concepts")
    write_preregistration(folder / "study.yaml")
    return folder


@pytest.fixture(scope="module")
def study(place):
    model = place / "model"
    align.main([
        str(place / "concepts"), "--models", f"joint 0={model}", f"joint 1={model}",
        "--output", str(place / "results"),
        "--preregistration", str(place / "study.yaml"), "--device", "cpu",
    ])  # fmt: skip
    return Study.from_json(place / "results" / "align.json")


def test_the_page_is_written_beside_the_numbers(place, study):
    content = (place / "results" / "align.html").read_text(encoding="utf-8")
    assert study.verdict.sentence in html.unescape(content) and 'href="align.json"' in content
    assert "data:image/" in content and "data:audio/" in content


def test_every_model_has_its_controls_beside_it(study):
    kinds = [(model.name, model.kind) for model in study.models]
    assert kinds[:2] == [("joint 0", "joint"), ("joint 1", "joint")]
    assert [name for name, kind in kinds if kind == "untrained"][:2] == ["untrained joint 0", "untrained joint 1"]
    assert {kind for _, kind in kinds} == {"joint", "untrained", "hand-made", "shuffled"}
    twins = {model.untrained_twin for model in study.models if model.kind == "joint"}
    assert twins <= {model.name for model in study.models}


def test_numbers_have_the_shapes_of_layers(study):
    models = {model.name: model for model in study.models}
    for table in study.tables:
        layers = models[table.model].layers
        shape = (len(layers[table.first]), len(layers[table.second]))
        for name in ("score", "null_mean", "null_std", "p", "z"):
            matrix = getattr(table, name)
            assert (len(matrix), len(matrix[0])) == shape
    assert {table.measure for table in study.tables} == {"mutual_knn", "cka", "retrieval", "rsa", "direct"}
    assert all(0 < row.p <= 1 for row in study.primary)


def test_identical_models_are_aligned_with_themselves(study):
    twice = [control for control in study.controls if "two seeds" in control.name and control.name.startswith("joint")]
    assert [control.score for control in twice] == pytest.approx([1.0, 1.0, 1.0])
    assert all(control.passed for control in twice)


def test_the_difference_to_untrained_networks_has_an_interval(study):
    for row in study.primary:
        assert (row.minus_untrained is None) == (row.kind not in ("joint", "separate"))
        if row.minus_untrained is not None:
            assert row.minus_low <= row.minus_untrained <= row.minus_high


def test_eight_concepts_support_no_answer(study):
    assert {pair.answer for pair in study.verdict.pairs} <= {"yes", "not supported"}
    assert any("With fewer than 30 concepts (here 8)" in limit for limit in study.limits)


def test_the_question_has_all_directions_and_levels(study):
    asked = [question for question in study.questions if question.model == "joint 0"]
    assert {(question.first, question.second) for question in asked} == {
        (a, b) for a in study.modalities for b in study.modalities if a != b
    }
    assert {question.method for question in asked} == {"map", "direct"}
    assert [level.level for level in asked[0].levels] == ["itself", "animal/mammal", "other animal", "everything else"]
    assert [level.concepts for level in asked[0].levels] == [1, 1, 1, 5]
    assert len(asked[0].exemplar_ranks) == 4


def test_examples_are_counted_and_shown(place, study):
    assert [concept.name for concept in study.concepts] == WORDS
    for concept in study.concepts:
        for modality, examples in concept.exemplars.items():
            assert (examples.count, examples.unreadable) == (4, 0)
            if modality != "text":
                assert all((place / "results" / path).is_file() for path in examples.shown)
    assert study.left_out == {"teddy": "a first name"}


def test_the_preregistration_is_stored_with_its_hash(place, study):
    assert study.preregistration.text == (place / "study.yaml").read_text()
    assert len(study.preregistration.sha256) == 64
    assert study.preregistration.content["study"]["permutations"] == 39


def test_nuisances_and_probes(study):
    assert {"letters", "colour", "duration"} <= set(study.nuisances[0].nuisances)
    probes = {(probe.model, probe.modality): probe for probe in study.probes}
    # Pictures of one brightness each are told apart even by random weights.
    assert probes["joint 0", "vision"].accuracy > 3 * probes["joint 0", "vision"].chance


def test_features_are_computed_once(place, study, caplog, monkeypatch):
    def never(*arguments):
        raise AssertionError("the encoder ran again")

    monkeypatch.setattr("d2v_train.alignment.extraction.open_encoder", never)
    align.main([
        str(place / "concepts"), "--models", f"joint 0={place / 'model'}", "--output", str(place / "results"),
        "--preregistration", str(place / "study.yaml"), "--device", "cpu",
    ])  # fmt: skip
    again = Study.from_json(place / "results" / "align.json")
    first = {row.model: row.score for row in study.primary if row.first == "vision" and row.second == "audio"}
    now = {row.model: row.score for row in again.primary if row.first == "vision" and row.second == "audio"}
    assert now["joint 0"] == first["joint 0"]


@pytest.mark.parametrize(
    "models, sentence",
    [
        (["joint"], "is not NAME=PLACE"),
        (["joint 0=nowhere/at/all"], "nowhere/at/all holds no model"),
    ],
)
def test_mistakes_of_the_command_line(place, models, sentence):
    with pytest.raises(SystemExit, match=sentence):
        align.main([str(place / "concepts"), "--models", *models, "--output", str(place / "wrong")])


def test_a_protocol_that_changes_the_rule_is_refused(place):
    wrong = write_preregistration(place / "wrong.yaml", alpha=0.2)
    with pytest.raises(SystemExit, match="study.alpha is 0.2; the verdict is defined for 0.05 only"):
        align.main([str(place / "concepts"), "--models", f"joint={place / 'model'}", "--preregistration", str(wrong)])


def test_help_needs_no_library():
    shown = subprocess.run([sys.executable, "recipes/align.py", "--help"], capture_output=True, text=True, check=True)
    assert "preregistration" in shown.stdout and json.dumps("joint 0=runs/joint_0/final") in shown.stdout
