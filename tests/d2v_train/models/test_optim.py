"""Optimizer groups and the learning rate."""

import math

import pytest
import torch
from model_factory import tiny_config, version_config
from torch import nn

from d2v_train.models.optim import (
    build_optimizer,
    has_weight_decay,
    layer_scale,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from d2v_train.options.errors import OptionError
from d2v_train.options.sections import OptimOptions
from modeling_d2v import Data2VecForPreTraining, Data2VecModel


class Model(nn.Module):
    """One parameter of each kind that decay distinguishes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.LayerNorm(3)
        self.extra_tokens = nn.Parameter(torch.ones(1, 1, 3))
        self.mask_token = nn.Parameter(torch.ones(3))
        self.attention_bias = nn.Module()
        self.attention_bias.scale = nn.Parameter(torch.ones(1, 1, 2, 1, 1))
        self.teacher = nn.Linear(2, 3).requires_grad_(False)


def names_by_decay(model, **settings):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(model, 0.1, **settings)
    }


def test_decay_spares_vectors_biases_and_alibi_scales():
    assert names_by_decay(Model()) == {
        0.1: {"linear.weight", "extra_tokens"},
        0.0: {"linear.bias", "norm.weight", "norm.bias", "mask_token", "attention_bias.scale"},
    }


def test_decay_all_spares_nothing_but_the_teacher():
    (names,) = names_by_decay(Model(), decay_all=True).values()
    assert names == {name for name, _ in Model().named_parameters() if not name.startswith("teacher")}


def test_optimizer_takes_the_options():
    optimizer = build_optimizer(Model(), OptimOptions(lr=0.3, betas=[0.1, 0.2], eps=0.5, weight_decay=0.7))
    assert optimizer.defaults["betas"] == (0.1, 0.2) and optimizer.defaults["eps"] == 0.5
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.7, 0.0]
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_local_encoders_have_a_learning_rate_of_their_own():
    model = Data2VecForPreTraining(tiny_config("audio"))
    optimizer = build_optimizer(model, OptimOptions(local_encoder_lr=0.1))
    set_learning_rate(optimizer, 0.5)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(0.05 if "local_encoder" in name else 0.5), name
    assert len(rates) == sum(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(OptionError, match="local"):
        build_optimizer(Model(), OptimOptions(local_encoder_lr=0.1))


def rate(step, warmup=10, total=110, least=0.1):
    return learning_rate(step, peak=1.0, least=least, warmup_steps=warmup, total_steps=total)


def test_schedule_warms_up_falls_by_a_cosine_and_stays_at_its_minimum():
    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.55)
    assert rate(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(109) > 0.1 and rate(110) == rate(10**9) == 0.1
    falling = [rate(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)


def test_schedule_in_three_stages_falls_exponentially_from_where_the_peak_ends():
    stages = {
        "peak": 1.0,
        "least": 0.01,
        "warmup_steps": 10,
        "hold_steps": 80,
        "total_steps": 110,
        "curve": "exponential",
    }
    assert learning_rate(9, **stages) == learning_rate(10, **stages) == learning_rate(90, **stages) == 1.0
    assert learning_rate(100, **stages) == pytest.approx(0.1)
    assert 0.01 < learning_rate(109, **stages) < 0.02 and learning_rate(110, **stages) == 0.01
    held = stages | {"curve": "cosine"}
    assert learning_rate(90, **held) == 1.0 and learning_rate(100, **held) == pytest.approx(0.505)


def test_schedule_without_warmup_or_of_warmup_only():
    assert rate(0, warmup=0) == 1.0
    assert rate(109, warmup=110) == 1.0 and rate(110, warmup=110) == 0.1


@pytest.mark.parametrize(
    "name, below_the_head",
    [
        ("data2vec.modality_encoders.vision.local_encoder.projection.weight", 4),
        ("data2vec.modality_encoders.vision.extra_tokens", 4),
        ("data2vec.modality_encoders.vision.context_norm.weight", 4),
        ("data2vec.modality_encoders.vision.prenet.0.norm1.weight", 3),
        ("data2vec.encoder.blocks.0.attention.qkv.weight", 2),
        ("data2vec.encoder.blocks.1.mlp.fc1.bias", 1),
        ("data2vec.encoder.norm.weight", 0),
        ("data2vec.modality_encoders.vision.attention_bias.table", 0),
        ("classifier.weight", 0),
    ],
)
def test_layers_are_counted_from_the_head_down(name, below_the_head):
    assert layer_scale(name, tiny_config("vision"), 0.5) == 0.5**below_the_head


@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
@pytest.mark.parametrize("version", ["1.0", "2.0", "2.0 pre-norm"])
def test_every_layer_of_every_model_has_its_rate(modality, version):
    config = version_config(version, modality)
    scales = {layer_scale(name, config, 0.5) for name, _ in Data2VecModel(config).named_parameters()}
    lowest = config.modality_config(modality).prenet_depth + config.num_hidden_layers + 1
    assert scales - {1.0} == {0.5**level for level in range(1, lowest + 1)}


def test_what_decays():
    matrix, vector, scale = (torch.nn.Parameter(torch.zeros(shape)) for shape in [(2, 2), (2,), (1, 1, 2, 1, 1)])
    assert has_weight_decay("encoder.blocks.0.mlp.fc1.weight", matrix)
    assert not has_weight_decay("encoder.norm.weight", vector)
    assert not has_weight_decay("modality_encoders.audio.attention_bias.scale", scale)
