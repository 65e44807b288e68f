"""Studies that the tests of the report share: the example of the schema, with and without what may be missing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from d2v_train.alignment.report.media import Media
from d2v_train.alignment.report.page import write_report
from d2v_train.alignment.report.views import Page
from d2v_train.alignment.results import Study
from d2v_train.inspection.ablation import Ablation
from d2v_train.inspection.display import picture_uri, recording_uri
from d2v_train.inspection.results import (
    Inspection,
    Item,
    RelevanceMap,
    Sanity,
    SharedUnit,
    Space,
    UnitCount,
    UnitSummary,
)
from d2v_train.inspection.variance import Shares


EXAMPLE = Path(__file__).resolve().parents[3] / "fixtures" / "align" / "align.json"
MODALITIES = ("vision", "audio", "text")


def inspection() -> Inspection:
    """What was found inside an encoder, small and with every part."""
    tone = np.sin(np.arange(8000) / 10)
    uris = {"vision": picture_uri(np.arange(64.0).reshape(1, 8, 8)), "audio": recording_uri(tone), "text": ""}
    items = {name: Item(modality=name, concept="dog", name="the big dog", uri=uris[name], value=0.5) for name in uris}
    unit = SharedUnit(
        block=2,
        unit=17,
        concept="dog",
        auc={"vision": 0.9, "audio": 0.8},
        examples={name: [items[name]] for name in uris},
    )
    ablation = {name: Ablation(60.0, 50.0, [59.0, 58.0, 60.0], 0.25) for name in MODALITIES}
    histogram = {name: [3] * 20 for name in MODALITIES}
    units = UnitSummary(
        total=60,
        items=dict.fromkeys(MODALITIES, 12),
        threshold=0.75,
        level=0.05,
        permutations=99,
        selective=dict.fromkeys(MODALITIES, 9),
        untrained_selective={name: [1, 2] for name in MODALITIES},
        shared=[UnitCount(modalities=["vision", "audio"], count=1, expected=0.3, upper=1.0, p=0.04, untrained=[0, 1])],
        table=[unit],
        dominance=histogram,
        untrained_dominance=histogram,
        ablated=1,
        ablation=ablation,
    )
    points = {name: [[float(i), float(i**2)] for i in range(3)] for name in MODALITIES}
    gaps = {"vision audio": 1.5, "vision text": 1.2, "audio text": 0.4}
    space = Space(
        layer="layer 1",
        gap=gaps,
        names=["dog", "cat", "ox"],
        points=points,
        explained=[0.6, 0.2],
        centred=points,
        centred_explained=[0.5, 0.3],
    )
    sizes = {"vision": [8, 8], "audio": [80], "text": [4]}
    rollouts = {"vision": [4, 4], "audio": [20], "text": [4]}
    maps = [
        RelevanceMap(
            item=items[name],
            explained="cosine to the concept",
            score=0.8,
            baseline=0.1,
            gap=0.2,
            shape=sizes[name],
            values=np.linspace(-1, 1, int(np.prod(sizes[name]))).tolist(),
            rollout_shape=rollouts[name],
            rollout=np.full(int(np.prod(rollouts[name])), 0.1).tolist(),
            tokens=["<s>", "the", " big", " dog"] if name == "text" else [],
        )
        for name in MODALITIES
    ]
    fractions = [0.0, 0.5, 1.0]
    sanity = Sanity(
        inputs=4,
        fractions=fractions,
        by_relevance=[0.0, -0.5, -0.6],
        at_random=[0.0, -0.2, -0.6],
        advantages=[0.1, 0.2, 0.1, 0.3],
        p=0.06,
        randomised={"block 2 and later": 0.4, "all weights": 0.1},
    )
    shares = [Shares(0.5, 0.2, 0.1, 0.1, 0.1, 0.08, 0.09, 0.01)] * 2
    return Inspection(
        model="joint 0",
        modalities=list(MODALITIES),
        concepts=["dog", "cat", "ox"],
        layers=["layer 0", "layer 1"],
        untrained=2,
        units=units,
        variance=shares,
        untrained_variance=shares,
        spaces=[space, space],
        relevance=maps,
        sanity=dict.fromkeys(MODALITIES, sanity),
    )


def example_study() -> Study:
    """The example of the schema, with an inspection."""
    return dataclasses.replace(Study.from_json(EXAMPLE), inspections=[inspection()])


@pytest.fixture
def study() -> Study:
    """The example of the schema, with an inspection, for a test to change."""
    return example_study()


@pytest.fixture
def bare() -> Study:
    """A study of one model and two modalities, without all that may be missing, such as layers and controls."""
    study = Study.from_json(EXAMPLE)
    model = dataclasses.replace(study.models[0], kind="encoder", untrained_twin=None)
    for concept in study.concepts:
        concept.exemplars.pop("audio", None)
    primary = [row for row in study.primary if row.model == model.name and "audio" not in (row.first, row.second)]
    lacking = dict.fromkeys(("low", "high", "minus_untrained", "minus_low", "minus_high", "calibrated"))
    return dataclasses.replace(
        study,
        modalities=["vision", "text"],
        models=[model],
        primary=[dataclasses.replace(row, kind="encoder", **lacking) for row in primary],
        tables=[],
        best=[],
        similarities=[],
        neighbours=[],
        questions=[],
        controls=[],
        nuisances=[],
        probes=[],
        left_out={},
        limits=[],
        verdict=dataclasses.replace(study.verdict, pairs=[]),
    )


@pytest.fixture(scope="session")
def examples(tmp_path_factory) -> Path:
    """Folder with the pictures and recordings that the example names; reports are written into it."""
    folder = tmp_path_factory.mktemp("study")
    recordings: list[bytes] = []
    for concept in Study.from_json(EXAMPLE).concepts:
        for shown in concept.exemplars["vision"].shown:
            (folder / shown).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), "#3366cc").save(folder / shown)
        for shown in concept.exemplars["audio"].shown:
            (folder / shown).parent.mkdir(parents=True, exist_ok=True)
            if not recordings:
                soundfile.write(folder / shown, 0.1 * np.sin(np.arange(8000) / 10), 16000)
                recordings.append((folder / shown).read_bytes())
            (folder / shown).write_bytes(recordings[0])
    return folder


@pytest.fixture
def page(study, examples) -> Page:
    """The study as the sections take it."""
    return Page(study, Media(study.concepts, examples), "align.json", examples)


@pytest.fixture(scope="session")
def whole_report(examples) -> Path:
    """The report of the example."""
    return write_report(example_study(), examples / "whole.html")
