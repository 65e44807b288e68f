"""A whole inspection of a tiny model: everything is there, fits together, and can be written as JSON."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from model_factory import randomise, tiny_config

from d2v_train.inspection.activations import ConceptItems
from d2v_train.inspection.run import InspectionSettings, inspect_encoder, untrained_encoders
from modeling_d2v import Data2VecModel


class Numbers:
    """A tokenizer whose tokens are numbers."""

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(map(str, ids))


SETTINGS = InspectionSettings(
    permutations=19, chance=5, random_sets=3, maps=2, checked=3, steps=4, focus=["bird"], threshold=0.6
)


@pytest.fixture(scope="module")
def inspection():
    """Two concepts that differ in brightness and loudness, and the model that sees and hears them."""
    generator = torch.Generator().manual_seed(0)
    items = {}
    for modality, shape in (("vision", (3, 32, 32)), ("audio", (2400,))):
        name = {"vision": "pixel_values", "audio": "input_values"}[modality]
        inputs = []
        for number in range(24):
            noise = torch.randn(shape, generator=generator)
            tone = torch.sin(torch.arange(shape[-1]) * (0.05 if number % 2 else 1.5)).expand(shape)
            inputs.append({name: noise * 0.3 + 2 * tone})
        items[modality] = ConceptItems(modality, inputs, np.arange(24) % 2, [f"{modality} {i}" for i in range(24)])
    texts = [{"input_ids": torch.randint(4, 20, (6 + i % 3,), generator=generator) + 20 * (i % 2)} for i in range(24)]
    items["text"] = ConceptItems("text", texts, np.arange(24) % 2)
    model = randomise(Data2VecModel(tiny_config())).eval()
    others = untrained_encoders(lambda: Data2VecModel(tiny_config()), [0, 1])
    return inspect_encoder(model, others, items, ["dog", "bird"], name="tiny", tokenizer=Numbers(), settings=SETTINGS)


def test_everything_is_found(inspection):
    assert inspection.model == "tiny" and inspection.modalities == ["vision", "audio", "text"]
    assert inspection.layers == ["layer 0", "layer 1", "layer 2"] and inspection.untrained == 2
    assert len(inspection.variance) == len(inspection.untrained_variance) == len(inspection.spaces) == 3
    assert set(inspection.sanity) == set(inspection.modalities)
    assert inspection.settings["steps"] == 4


def test_it_can_be_written_and_every_number_is_finite(inspection):
    written = json.loads(json.dumps(dataclasses.asdict(inspection), allow_nan=False))
    assert written["units"]["total"] == 128


def test_shares_of_every_layer_sum_up_to_one(inspection):
    for shares in (*inspection.variance, *inspection.untrained_variance):
        parts = [shares.modality, shares.position, shares.concept, shares.own_concept, shares.residual]
        assert sum(parts) == pytest.approx(1, abs=1e-12)


def test_shared_units_have_a_concept_examples_and_an_ablation(inspection):
    units = inspection.units
    assert [group.modalities for group in units.shared][-1] == ["vision", "audio", "text"]
    assert all(len(group.untrained) == len(group.untrained_p) == 2 for group in units.shared)
    assert units.ablated >= len(units.table) >= 1
    assert set(units.ablation) == {"vision", "audio", "text"}
    for unit in units.table:
        assert unit.concept in ("dog", "bird") and len(unit.auc) >= 2
        assert all(value >= 0.6 for value in unit.auc.values())
        assert all(len(items) == 4 for items in unit.examples.values())
        values = [item.value for item in unit.examples["vision"]]
        assert values == sorted(values, reverse=True)
    assert sum(units.dominance["vision"]) == sum(units.untrained_dominance["vision"]) == 128


def test_relevance_is_of_the_wanted_concepts_in_every_modality(inspection):
    for modality in inspection.modalities:
        maps = [each for each in inspection.relevance if each.item.modality == modality]
        assert [each.item.concept for each in maps[:2]] == ["bird", "bird"]
        assert {each.explained for each in maps} >= {"cosine to the concept", "logit of the probe"}
        for each in maps:
            assert len(each.values) == np.prod(each.shape) and len(each.rollout) == np.prod(each.rollout_shape)
            assert sum(each.values) - (each.score - each.baseline) == pytest.approx(each.gap, abs=0.02)
    picture = next(each for each in inspection.relevance if each.item.modality == "vision")
    text = next(each for each in inspection.relevance if each.item.modality == "text")
    recording = next(each for each in inspection.relevance if each.item.modality == "audio")
    assert picture.shape == [32, 32] and picture.rollout_shape == [4, 4]
    assert len(text.tokens) == text.shape[0] and text.item.name == " ".join(text.tokens)
    assert recording.shape == [80] and recording.item.name.startswith("audio ")


def test_relevance_is_checked(inspection):
    for sanity in inspection.sanity.values():
        assert sanity.inputs == 3 == len(sanity.advantages) and sanity.by_relevance[0] == sanity.at_random[0] == 0
        assert list(sanity.randomised) == ["block 2 and later", "block 1 and later", "all weights"]
        gap = np.array(sanity.at_random) - sanity.by_relevance
        assert np.trapezoid(gap, sanity.fractions) == pytest.approx(np.mean(sanity.advantages), abs=1e-3)


def test_untrained_networks_follow_their_seeds_and_leave_the_random_state(joint_model):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = untrained_encoders(lambda: Data2VecModel(tiny_config("text")), [7, 7, 8])
    assert torch.rand(1) == expected
    weights = [model.encoder.blocks[0].mlp.fc1.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_too_few_items_or_modalities_are_refused(joint_model, joint_items):
    with pytest.raises(ValueError, match="two or more modalities; got text"):
        inspect_encoder(joint_model, [], {"text": joint_items["text"]}, ["a", "b", "c"])
    few = {**joint_items, "audio": joint_items["audio"].take([0, 1, 2, 3, 4])}
    with pytest.raises(ValueError, match="'c' has 1 audio items"):
        inspect_encoder(joint_model, [], few, ["a", "b", "c"])
