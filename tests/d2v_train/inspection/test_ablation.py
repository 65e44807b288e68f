"""Units that a model was given for its concepts: silencing them costs the probe its accuracy, random ones do not."""

import numpy as np
import pytest
import torch

from d2v_train.inspection.ablation import ablate, states_without
from d2v_train.inspection.activations import ConceptItems, pooled_states, silenced_units


WIDTH = 64


@pytest.fixture
def built(joint_model):
    """A model whose last block writes the concept of a picture through units 0 to 3 alone, and items of two concepts.

    Pictures are dark or bright; every other unit of the last block gives nothing that depends on the input.
    """
    generator = torch.Generator().manual_seed(0)
    items = [
        {"pixel_values": torch.full((3, 32, 32), 2.0 * (number % 2) - 1) + torch.randn(3, 32, 32, generator=generator)}
        for number in range(40)
    ]
    with torch.no_grad():
        for block in joint_model.encoder.blocks:
            block.attention.projection.weight.zero_()
        last = joint_model.encoder.blocks[-1]
        # Next to nothing of the input passes the hidden units by.
        last.norm1.weight.mul_(1e-3)
        last.mlp.fc1.weight.mul_(1e3)
        last.mlp.fc2.weight[:, 4:].zero_()
        last.mlp.fc2.weight[:, :4].mul_(50)
    return joint_model, ConceptItems("vision", items, np.arange(40) % 2)


def test_silencing_the_units_that_carry_the_concept_costs_more_than_random_ones(built):
    model, items = built
    train, test = items.halves()
    found = ablate(model, {"vision": train}, {"vision": test}, np.arange(WIDTH, WIDTH + 4), draws=9)["vision"]
    assert found.intact >= 80
    assert found.silenced <= found.intact - 15
    assert np.mean(found.random) == found.intact  # the other units of that block write nothing
    assert found.p == 0.1


def test_silencing_no_unit_costs_nothing(built):
    model, items = built
    train, test = items.halves()
    found = ablate(model, {"vision": train}, {"vision": test}, [], draws=3)["vision"]
    assert found.silenced == found.intact and found.random == [found.intact] * 3 and found.p == 1


def test_random_units_are_as_many_of_the_same_blocks_and_never_those_in_question(built, monkeypatch):
    model, items = built
    seen = []

    def silenced(model, units):
        seen.append(np.asarray(units))
        return torch.no_grad()

    monkeypatch.setattr("d2v_train.inspection.ablation.silenced_units", silenced)
    train, test = items.halves()
    units = [1, 2, WIDTH + 5]
    ablate(model, {"vision": train}, {"vision": test}, units, draws=5, seed=1, batch_size=99)
    fitted, none, own, *drawn = seen
    assert len(fitted) == 0
    assert len(none) == 0 and own.tolist() == units and len(drawn) == 5
    for each in drawn:
        assert np.bincount(each // WIDTH).tolist() == [2, 1] and not set(each) & set(units)
    assert len({tuple(each) for each in drawn}) > 1


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_repeating_the_shared_blocks_alone_gives_the_states_of_the_whole_model(joint_model, joint_items, modality):
    sets = [np.zeros(0, dtype=int), np.arange(40), np.arange(30, 100)]
    found = states_without(joint_model, joint_items[modality], sets, batch_size=4)
    for units, states in zip(sets, found, strict=True):
        with silenced_units(joint_model, units):
            expected = pooled_states(joint_model, joint_items[modality], batch_size=4)
        assert states == pytest.approx(expected, abs=1e-5)
    assert np.abs(found[1] - found[0]).max() > 1e-3
