"""What was found inside an encoder survives the file of its study."""

import dataclasses
from pathlib import Path

from d2v_train.alignment.results import Study
from d2v_train.inspection.ablation import Ablation
from d2v_train.inspection.results import Inspection, Item, SharedUnit, UnitCount, UnitSummary
from d2v_train.inspection.variance import Shares


EXAMPLE = Path(__file__).resolve().parents[2] / "fixtures" / "align" / "align.json"


def test_an_inspection_survives_the_file_of_its_study(tmp_path):
    item = Item(modality="text", concept="dog", name="the dog", value=0.5)
    units = UnitSummary(
        total=4,
        items={"text": 2},
        threshold=0.75,
        level=0.05,
        permutations=9,
        selective={"text": 1},
        untrained_selective={"text": [0]},
        shared=[UnitCount(modalities=["text", "audio"], count=1, expected=0.5, upper=1.0, p=0.1)],
        table=[SharedUnit(block=1, unit=2, concept="dog", auc={"text": 0.9}, examples={"text": [item]})],
        dominance={"text": [1, 3]},
        untrained_dominance={},
        ablation={"text": Ablation(80.0, 60.0, [79.0], 0.5)},
    )
    found = Inspection(
        model="joint 0",
        modalities=["text", "audio"],
        concepts=["dog"],
        layers=["layer 0"],
        untrained=1,
        units=units,
        variance=[Shares(0.1, 0.2, 0.3, 0.1, 0.3)],
    )
    study = dataclasses.replace(Study.from_json(EXAMPLE), inspections=[found])
    study.to_json(tmp_path / "align.json")
    assert Study.from_json(tmp_path / "align.json").inspections == [found]
    assert Study.from_json(EXAMPLE).inspections == []
