"""Examples of a table of concepts become the items of an inspection, in every modality that they share."""

import numpy as np
import pytest
from concept_folder import write_concepts
from probed_model import save_model

from d2v_train.alignment.concepts import load_concepts
from d2v_train.alignment.encoders import parse_models
from d2v_train.alignment.inspecting import concept_items, inspect_families, inspect_joint
from d2v_train.inspection.run import InspectionSettings


QUICK = InspectionSettings(permutations=9, chance=2, random_sets=2, maps=1, checked=2, steps=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    save_model(folder / "model")
    write_concepts(folder / "concepts")
    return folder


@pytest.fixture
def table(place):
    return load_concepts(place / "concepts")


def models(place, *names):
    return parse_models([f"{name}={place / 'model'}" for name in names])


def test_items_are_the_examples_and_lack_what_cannot_be_read(place, table, caplog):
    (model,) = models(place, "joint 0")
    items, names = concept_items(model, table)
    assert set(items) == {"vision", "audio", "text"} and names == [concept.name for concept in table.concepts]
    assert all(np.bincount(part.concepts).tolist() == [4] * len(names) for part in items.values())
    first, second = table.concepts[:2]
    broken = place / "broken.jpg"
    broken.write_bytes(b"no picture")
    first.examples["vision"] = [*first.examples["vision"][:2], broken]
    second.examples["vision"] = [second.examples["vision"][0], broken]
    items, names = concept_items(model, table)
    assert first.name in names and second.name not in names and "broken.jpg" in caplog.text
    assert np.bincount(items["vision"].concepts)[names.index(first.name)] == 2
    assert items["vision"].names[0] == first.examples["vision"][0].name


def test_a_joint_model_is_looked_into(place, table):
    (model,) = models(place, "joint 0")
    found = inspect_joint(model, table, untrained=[0], settings=QUICK)
    assert (found.model, found.untrained, found.modalities) == ("joint 0", 1, ["text", "vision", "audio"])
    assert found.concepts == [concept.name for concept in table.concepts] and found.units.total > 0
    sentence = next(each for each in found.relevance if each.item.modality == "text")
    assert sentence.tokens and sentence.item.concept == found.concepts[0]


def test_the_first_model_of_every_joint_family_is_looked_into(place, table, monkeypatch):
    seen = []

    def joint(model, table, settings):
        seen.append((model.name, list(settings.focus)))
        return model.name

    monkeypatch.setattr("d2v_train.alignment.inspecting.inspect_joint", joint)
    found = models(place, "joint 1", "joint 2", "other 0")
    (separate,) = parse_models([f"separate 0=vision:{place / 'model'}"])
    assert inspect_families([*found, separate], table, ["dog"]) == ["joint 1", "other 0"]
    assert seen == [("joint 1", ["dog"]), ("other 0", ["dog"])]


def test_models_of_one_modality_each_are_refused(place, table, tmp_path):
    copy = save_model(tmp_path / "copy")
    (model,) = parse_models([f"separate 0=vision:{place / 'model'},audio:{copy}"])
    with pytest.raises(ValueError, match="separate 0 has an encoder of its own"):
        inspect_joint(model, table)


def test_too_few_concepts_are_refused(place, table):
    (model,) = models(place, "joint 0")
    table.concepts = table.concepts[:1]
    with pytest.raises(ValueError, match="1 concepts have two readable examples"):
        concept_items(model, table)
