"""Deletion and randomisation tell relevance from noise."""

import numpy as np
import pytest
import torch
from model_factory import randomise, tiny_config

from d2v_train.inspection.relevance import integrated_gradients
from d2v_train.inspection.sanity import Deletion, deletion, randomisation, randomised_models, relevance_parts
from d2v_train.inspection.scores import ProbeScore
from modeling_d2v import Data2VecModel


def test_parts_are_patches_pieces_and_tokens(joint_model, one):
    patches = relevance_parts(joint_model, one["vision"])
    assert patches.shape == (32, 32) and patches.max() == 15
    assert (patches[:8, :8] == 0).all() and patches[31, 0] == 12 and (np.bincount(patches.ravel()) == 64).all()
    pieces = relevance_parts(joint_model, one["audio"])
    assert pieces.shape == (2000,) and (np.bincount(pieces) == 50).all() and (np.diff(pieces) >= 0).all()
    assert relevance_parts(joint_model, one["text"]).tolist() == list(range(8))


def corner(model, inputs):
    return inputs["pixel_values"][:, :, :8, :8].square().sum(dim=(1, 2, 3))


def test_deleting_what_the_score_reads_first_is_faster_than_any_random_order(joint_model, one):
    found = deletion(
        joint_model, one["vision"], corner, integrated_gradients(joint_model, one["vision"], corner).values
    )
    whole = corner(None, one["vision"]).item()
    # A tenth of 16 patches is more than the one that counts.
    assert found.by_relevance == pytest.approx([whole] + [0.0] * 10)
    assert all(curve[0] == pytest.approx(whole) and curve[-1] == 0 for curve in found.at_random)
    assert found.advantage > 0.2 * whole and len(found.at_random) == 10


def test_relevance_of_noise_has_no_advantage(joint_model, one):
    noise = np.random.default_rng(0).normal(size=(20, 32, 32))
    whole = corner(None, one["vision"]).item()
    advantages = [deletion(joint_model, one["vision"], corner, each, seed=i).advantage for i, each in enumerate(noise)]
    assert abs(np.mean(advantages)) < 0.2 * whole


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_relevance_of_a_model_has_an_advantage_over_random_orders(joint_model, one, direction, modality):
    score = ProbeScore(direction)
    values = integrated_gradients(joint_model, one[modality], score).values
    found, opposite = (deletion(joint_model, one[modality], score, sign * values) for sign in (1, -1))
    assert found.advantage > 0 > opposite.advantage


def test_the_advantage_is_the_area_between_the_curves():
    found = Deletion([1.0, 0.0], [[1.0, 0.5], [1.0, 0.7]], fractions=[0.0, 1.0])
    assert found.advantage == pytest.approx(0.3)


def test_models_are_randomised_from_the_last_block_on(joint_model):
    fresh = randomise(Data2VecModel(tiny_config()), seed=9).eval()
    names, models = zip(*randomised_models(joint_model, fresh), strict=True)
    assert names == ("block 2 and later", "block 1 and later", "all weights")

    def same(model, other, part):
        own, theirs = (each.get_submodule(part).state_dict() for each in (model, other))
        return all(torch.equal(own[key], theirs[key]) for key in own)

    first, second, front = "encoder.blocks.0", "encoder.blocks.1", "modality_encoders"
    assert [same(model, joint_model, first) for model in models] == [True, False, False]
    assert [same(model, fresh, second) for model in models] == [True, True, True]
    assert [same(model, joint_model, front) for model in models] == [True, True, False]
    assert not same(joint_model, fresh, second)


def test_relevance_that_ignores_the_weights_is_found_out(joint_model, one, direction):
    fresh = randomise(Data2VecModel(tiny_config()), seed=9).eval()
    blind = integrated_gradients(joint_model, one["vision"], corner).values
    kept = randomisation(joint_model, fresh, [(one["vision"], corner, blind)], steps=8)
    assert kept == pytest.approx(dict.fromkeys(("block 2 and later", "block 1 and later", "all weights"), 1.0))
    score = ProbeScore(direction)
    values = integrated_gradients(joint_model, one["vision"], score, 16).values
    changed = randomisation(joint_model, fresh, [(one["vision"], score, values)], steps=16)
    assert abs(changed["all weights"]) < 0.9
    same = randomisation(joint_model, joint_model, [(one["vision"], score, values)], steps=16)
    assert same["all weights"] == pytest.approx(1)
