"""Hidden units and states: what hooks record is what the blocks compute, and padding changes nothing."""

import numpy as np
import pytest
import torch
from backbone_factory import pretraining
from torch.nn import functional as F

from d2v_train.inspection.activations import (
    ConceptItems,
    feed_forward_outputs,
    pooled_states,
    silenced_units,
    token_states,
    unit_activations,
)
from d2v_train.models.encoders import observed_encoder


MODALITIES = ("text", "vision", "audio")


@pytest.mark.parametrize("modality", MODALITIES)
def test_units_are_those_after_the_activation_function(joint_model, joint_items, modality):
    items = joint_items[modality]
    inputs = {name: value[None] for name, value in items.items[2].items()}
    seen = []
    hooks = [
        block.mlp.fc1.register_forward_hook(lambda _, args, output: seen.append(F.gelu(output)))
        for block in joint_model.encoder.blocks
    ]
    with torch.no_grad():
        joint_model(**inputs)
    for hook in hooks:
        hook.remove()
    extra = joint_model.config.modality_config(modality).num_extra_tokens
    expected = torch.cat([units[0, extra:].mean(dim=0) for units in seen])
    found = unit_activations(joint_model, items, batch_size=4)
    assert found.shape == (6, 2 * 64) and found.dtype == np.float32
    assert found[2] == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_neither_units_nor_states_depend_on_the_batch(joint_model, joint_items, modality):
    items = joint_items[modality]
    assert unit_activations(joint_model, items, 6) == pytest.approx(unit_activations(joint_model, items, 1), abs=1e-5)
    assert pooled_states(joint_model, items, 6) == pytest.approx(pooled_states(joint_model, items, 1), abs=1e-5)
    for padded, alone in zip(token_states(joint_model, items, 6), token_states(joint_model, items, 1), strict=True):
        for one, other in zip(padded, alone, strict=True):
            assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_pooled_states_are_the_means_of_token_states_and_the_pooled_output(joint_model, joint_items, modality):
    items = joint_items[modality]
    pooled = pooled_states(joint_model, items, layer=-1)
    states = list(token_states(joint_model, items))
    assert len(states[0]) == 3  # input of the blocks, and two blocks
    assert np.stack([each[-1].mean(axis=0) for each in states]) == pytest.approx(pooled, abs=1e-5)
    inputs = {name: value[None] for name, value in items.items[5].items()}
    with torch.no_grad():
        assert pooled[5] == pytest.approx(joint_model(**inputs).pooler_output[0].numpy(), abs=1e-5)


def test_the_model_returns_to_its_mode(joint_model, joint_items):
    joint_model.train()
    unit_activations(joint_model, joint_items["text"])
    assert joint_model.training


def test_silenced_units_do_not_reach_the_rest(joint_model, joint_items):
    items = joint_items["vision"]
    intact = pooled_states(joint_model, items)
    # Silencing all units of the second block is the same as a feed-forward part that gives its bias alone.
    with silenced_units(joint_model, np.arange(64, 128)):
        silenced = pooled_states(joint_model, items)
    with torch.no_grad():
        joint_model.encoder.blocks[1].mlp.fc2.weight.zero_()
    assert silenced == pytest.approx(pooled_states(joint_model, items), abs=1e-6)
    assert np.abs(silenced - intact).max() > 1e-4
    with silenced_units(joint_model, np.arange(64, 128)):
        assert pooled_states(joint_model, items) == pytest.approx(silenced, abs=1e-6)


def test_nothing_stays_silent(joint_model, joint_items):
    intact = pooled_states(joint_model, joint_items["text"])
    with silenced_units(joint_model, np.arange(5)):
        pass
    assert (pooled_states(joint_model, joint_items["text"]) == intact).all()
    with silenced_units(joint_model, np.zeros(0, dtype=int)):
        assert (pooled_states(joint_model, joint_items["text"]) == intact).all()
    with pytest.raises(ValueError, match="0 to 127"), silenced_units(joint_model, np.array([128])):
        pass


@pytest.mark.parametrize("kind", ["vit", "dinov2_with_registers", "roberta", "wav2vec2", "data2vec-audio"])
def test_feed_forward_parts_of_encoders_of_transformers_are_found(kind, joint_items):
    model = observed_encoder(pretraining(kind)).eval()
    items = joint_items[{"vit": "vision", "dinov2_with_registers": "vision", "roberta": "text"}.get(kind, "audio")]
    layers = feed_forward_outputs(model)
    assert len(layers) == 3 and all(layer.in_features > layer.out_features == 32 for layer in layers)
    units = unit_activations(model, items)
    assert units.shape == (6, 3 * layers[0].in_features) and np.ptp(units, axis=0).min() > 0
    assert len(next(token_states(model, items))) == 4


def test_an_encoder_without_feed_forward_parts_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 4))
    model.config = type("Config", (), {"hidden_size": 2})()
    with pytest.raises(ValueError, match="No feed-forward part"):
        feed_forward_outputs(model)


def test_halves_divide_every_concept_and_share_no_item():
    items = ConceptItems("text", [{"row": row} for row in range(10)], np.array([0] * 5 + [1] * 4 + [2]))
    first, second = items.halves(seed=3)
    rows = [{item["row"] for item in part.items} for part in (first, second)]
    assert rows[0] | rows[1] == set(range(10)) and not rows[0] & rows[1]
    assert np.bincount(first.concepts).tolist() == [3, 2, 1] and np.bincount(second.concepts).tolist() == [2, 2]
    again = items.halves(seed=3)[0]
    assert again.items == first.items and items.halves(seed=4)[0].items != first.items


def test_items_without_concepts_are_refused():
    with pytest.raises(ValueError, match="2 text items but 1 concepts"):
        ConceptItems("text", [{}, {}], np.array([0]))
