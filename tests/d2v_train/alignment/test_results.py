"""align.json: what is written is read again as the same values, and a file of another schema is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from d2v_train.alignment.results import Study


EXAMPLE = Path(__file__).resolve().parents[2] / "fixtures" / "align" / "align.json"


def test_a_study_survives_its_file(tmp_path):
    study = Study.from_json(EXAMPLE)
    study.to_json(tmp_path / "align.json")
    assert json.loads((tmp_path / "align.json").read_text()) == json.loads(EXAMPLE.read_text())
    assert Study.from_json(tmp_path / "align.json") == study


def test_nested_values_have_their_classes():
    study = Study.from_json(EXAMPLE)
    assert study.concepts[0].exemplars["vision"].count == 20
    assert study.questions[0].levels[0].level == "itself"
    assert isinstance(study.primary[0].layers, tuple)


def test_undefined_numbers_are_not_written(tmp_path):
    study = Study.from_json(EXAMPLE)
    study.primary[0] = dataclasses.replace(study.primary[0], score=float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        study.to_json(tmp_path / "align.json")


def test_another_schema_is_refused(tmp_path):
    content = json.loads(EXAMPLE.read_text())
    content["meta"]["schema"] = 0
    (tmp_path / "align.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has schema 0"):
        Study.from_json(tmp_path / "align.json")
