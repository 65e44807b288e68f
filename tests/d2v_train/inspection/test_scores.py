"""Scores equal what is computed from the pooled states and units of the same items."""

import numpy as np
import pytest
import torch

from d2v_train.inspection.activations import pooled_states, unit_activations
from d2v_train.inspection.scores import CosineScore, ProbeScore, UnitScore


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_scores_equal_those_of_pooled_features(joint_model, joint_items, one, direction, modality):
    items, inputs = joint_items[modality], one[modality]
    states = pooled_states(joint_model, items, layer=1)
    centre = states.mean(axis=0)
    with torch.no_grad():
        cosine = CosineScore(direction, centre, layer=1)(joint_model, inputs)
        logit = ProbeScore(direction, bias=0.5, layer=1)(joint_model, inputs)
        unit = UnitScore(70)(joint_model, inputs)
    centred = states[0] - centre
    expected = centred @ direction / np.linalg.norm(centred) / np.linalg.norm(direction)
    assert cosine.item() == pytest.approx(expected, abs=1e-5)
    assert logit.item() == pytest.approx(states[0] @ direction + 0.5, abs=1e-4)
    assert unit.item() == pytest.approx(unit_activations(joint_model, items)[0, 70], abs=1e-5)


def test_scores_of_a_batch_are_those_of_its_samples(joint_model, joint_items, direction):
    inputs = {"pixel_values": torch.stack([item["pixel_values"] for item in joint_items["vision"].items])}
    for score in (CosineScore(direction), ProbeScore(direction), UnitScore(3)):
        with torch.no_grad():
            together = score(joint_model, inputs)
            alone = [score(joint_model, {"pixel_values": each[None]}).item() for each in inputs["pixel_values"]]
        assert together.shape == (6,) and together.tolist() == pytest.approx(alone, abs=1e-5)
