"""Integrated gradients are complete and exact where the answer is known; roll-out follows attention."""

import numpy as np
import pytest
import torch
from backbone_factory import pretraining

from d2v_train.inspection.activations import token_weights
from d2v_train.inspection.relevance import (
    attention_maps,
    attention_rollout,
    baseline_of,
    integrated_gradients,
    whole_gradients,
)
from d2v_train.inspection.scores import CosineScore, ProbeScore, UnitScore
from d2v_train.models.encoders import observed_encoder
from modeling_d2v import Data2VecModel


MODALITIES = ("text", "vision", "audio")


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", ["cosine", "unit", "probe"])
def test_relevance_has_the_shape_of_the_input_and_sums_up_to_the_change_of_the_score(
    joint_model, one, direction, modality, kind
):
    score = {"cosine": CosineScore(direction), "unit": UnitScore(5), "probe": ProbeScore(direction)}[kind]
    inputs = one[modality]
    found = integrated_gradients(joint_model, inputs, score, steps=128)
    ((name, values),) = inputs.items()
    assert found.values.shape == tuple(values.shape[-2:] if modality == "vision" else values.shape[1:])
    with torch.no_grad():
        draws = 3 if modality == "audio" else 1
        baselines = [score(joint_model, {name: baseline_of(joint_model, inputs, seed)}) for seed in range(draws)]
        expected = score(joint_model, inputs) - sum(baselines) / draws
    assert found.score - found.baseline == pytest.approx(expected.item(), abs=1e-6)
    assert found.values.sum() == pytest.approx(expected.item(), abs=0.02 * abs(expected.item()) + 2e-3)
    assert found.gap == pytest.approx(found.values.sum() - expected.item(), abs=1e-4)


def test_the_baseline_of_a_recording_is_noise_of_its_loudness(joint_model, one):
    inputs = {"input_values": 3 * one["audio"]["input_values"]}
    first, again, other = (baseline_of(joint_model, inputs, seed) for seed in (0, 0, 1))
    assert first.std() == pytest.approx(inputs["input_values"].std().item(), rel=0.1)
    assert (first == again).all() and not (first == other).all()
    real = torch.arange(2000)[None] < 1500
    padded = baseline_of(joint_model, {**inputs, "attention_mask": real.long()})
    assert (padded[:, 1500:] == inputs["input_values"][:, 1500:]).all()


def test_relevance_of_a_linear_score_is_weight_times_input(joint_model, one):
    weight = torch.linspace(-1, 1, 3 * 32 * 32).view(3, 32, 32)

    def linear(model, inputs):
        return (inputs["pixel_values"] * weight).sum(dim=(1, 2, 3))

    found = integrated_gradients(joint_model, one["vision"], linear, steps=4)
    assert found.values == pytest.approx((one["vision"]["pixel_values"][0] * weight).sum(dim=0).numpy(), abs=1e-4)


def test_only_what_the_score_reads_is_relevant(joint_model, one):
    def corner(model, inputs):
        return inputs["pixel_values"][:, :, :8, :8].square().sum(dim=(1, 2, 3))

    found = integrated_gradients(joint_model, one["vision"], corner).values
    assert (found[:8, :8] > 0).all() and found.sum() == pytest.approx(found[:8, :8].sum())


@pytest.mark.parametrize("modality", MODALITIES)
def test_front_ends_whose_gradients_training_scales_down_are_relevant_all_the_same(one, direction, modality):
    from model_factory import tiny_config

    torch.manual_seed(0)
    frozen = Data2VecModel(tiny_config(modality, **{f"{modality}_config": {"local_grad_scale": 0.1}})).eval()
    plain = Data2VecModel(tiny_config(modality, **{f"{modality}_config": {"local_grad_scale": 1.0}})).eval()
    plain.load_state_dict(frozen.state_dict())
    found = [integrated_gradients(model, one[modality], ProbeScore(direction), 8).values for model in (frozen, plain)]
    assert np.abs(found[1]).max() > 0 and found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)
    assert frozen.config.modality_config(modality).local_grad_scale == 0.1
    with whole_gradients(frozen):
        scale = vars(frozen.modality_encoders[modality].local_encoder).get("grad_scale", 1.0)
        assert scale == 1 == frozen.config.modality_config(modality).local_grad_scale


def test_relevance_leaves_no_gradients_and_the_mode_of_the_model(joint_model, one, direction):
    joint_model.train()
    integrated_gradients(joint_model, one["text"], CosineScore(direction), 4)
    assert joint_model.training and all(parameter.grad is None for parameter in joint_model.parameters())


def test_several_samples_are_refused(joint_model, joint_items, direction):
    batch = {"pixel_values": torch.stack([item["pixel_values"] for item in joint_items["vision"].items])}
    with pytest.raises(ValueError, match="one sample at a time; got 6"):
        integrated_gradients(joint_model, batch, CosineScore(direction))


def test_the_baseline_of_a_text_keeps_its_padding(joint_model):
    ids = torch.tensor([[0, 7, 8, 2, 1, 1]])
    assert baseline_of(joint_model, {"input_ids": ids}).tolist() == [[49, 49, 49, 49, 1, 1]]


@pytest.mark.parametrize("modality", MODALITIES)
def test_roll_out_is_a_distribution_over_the_tokens(joint_model, one, modality):
    inputs = one[modality]
    paid = attention_rollout(joint_model, inputs)
    with torch.no_grad():
        tokens = int(token_weights(joint_model, inputs, joint_model(**inputs)).sum())
    assert paid.shape == (tokens,) and paid.sum() == pytest.approx(1, abs=1e-5) and (paid > 0).all()


def test_roll_out_of_uniform_attention_is_uniform_and_one_token_that_all_attend_to_stands_out(joint_model, one):
    for block in (*joint_model.encoder.blocks, *joint_model.modality_encoders["text"].prenet):
        torch.nn.init.zeros_(block.attention.qkv.weight)
        torch.nn.init.zeros_(block.attention.qkv.bias)
    assert np.ptp(attention_rollout(joint_model, one["text"])) < 1e-6
    maps = attention_maps(joint_model, one["text"])
    expected = np.eye(8)
    for each in maps:
        expected = (0.5 * each[0].mean(dim=0).numpy() + 0.5 * np.eye(8)) @ expected
    assert attention_rollout(joint_model, one["text"]) == pytest.approx(expected.mean(axis=0), abs=1e-6)


def test_attention_of_every_block_is_read_and_the_implementation_stays(joint_model, one):
    before = joint_model.config._attn_implementation
    maps = attention_maps(joint_model, one["vision"])
    assert len(maps) == 2 + 1  # the shared blocks, and the prenet of pictures
    assert all(each.sum(dim=-1).allclose(torch.ones(1)) for each in maps)
    assert joint_model.config._attn_implementation == before == "sdpa"


@pytest.mark.parametrize(("kind", "modality"), [("vit", "vision"), ("roberta", "text"), ("wav2vec2", "audio")])
def test_encoders_of_transformers_are_explained(kind, modality, one, direction):
    model = observed_encoder(pretraining(kind)).eval()
    found = integrated_gradients(model, one[modality], CosineScore(direction), steps=128)
    assert found.values.sum() == pytest.approx(found.score - found.baseline, abs=0.1)
    assert np.abs(found.values).max() > 0
    paid = attention_rollout(model, one[modality])
    assert paid.sum() == pytest.approx(1, abs=1e-5)
    assert len(paid) == {"vision": 16, "text": 8, "audio": 6}[modality]
