"""Blocks: dropped layers and paths, scales of ALiBi."""

import pytest
import torch
from model_factory import (
    MODALITIES,
    inputs_for,
    padded_inputs,
    randomise,
    relative_error,
    tiny_config,
)

from modeling_d2v import Data2VecModel
from modeling_d2v.blocks import DropPath, run_blocks


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("training", [False, True])
def test_the_block_stack_compiles_without_a_graph_break(modality, training):
    config = tiny_config(modality, layerdrop=0.2 if training else 0.0, drop_path_rate=0.2 if training else 0.0)
    model = randomise(Data2VecModel(config)).train(training)
    expected = model(**inputs_for(modality)).last_hidden_state
    model.encoder = torch.compile(model.encoder, fullgraph=True, backend="inductor")
    out = model(**inputs_for(modality)).last_hidden_state
    out.sum().backward()
    if not training:
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_alibi_scale_per_layer_equals_one_scale_when_all_are_equal():
    shared = randomise(Data2VecModel(tiny_config("audio"))).eval()
    layered = Data2VecModel(tiny_config("audio", audio_config={"alibi_scale_per_layer": True})).eval()
    state = shared.state_dict()
    name = "modality_encoders.audio.attention_bias.scale"
    assert state[name].shape == (1, 1, 4, 1, 1) and layered.state_dict()[name].shape == (3, 1, 4, 1, 1)
    layered.load_state_dict({**state, name: state[name].expand(3, -1, -1, -1, -1)})
    batch, _ = padded_inputs("audio")
    torch.testing.assert_close(layered(**batch).last_hidden_state, shared(**batch).last_hidden_state)
    layered.modality_encoders["audio"].attention_bias.scale[2] = -1.0  # clamped: the last layer has no bias
    assert relative_error(layered(**batch).last_hidden_state, shared(**batch).last_hidden_state) > 1e-4


def test_layer_drop_skips_the_whole_layer_and_keeps_a_gradient_for_every_parameter():
    model = randomise(Data2VecModel(tiny_config("text", layerdrop=1.0))).train()
    x = torch.randn(2, 5, 32, requires_grad=True)
    out = run_blocks(model.encoder.blocks, x, [(None, None)] * 2, layerdrop=1.0)
    torch.testing.assert_close(out, x)
    out.sum().backward()
    assert all(p.grad is not None for p in model.encoder.blocks.parameters())
    assert relative_error(run_blocks(model.encoder.blocks.eval(), x, [(None, None)] * 2, layerdrop=1.0), x) > 0.1


def test_drop_path_keeps_the_expected_value():
    drop = DropPath(0.25).train()
    out = drop(torch.ones(20000, 2))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert drop.eval()(torch.ones(3, 2)).min() == 1


def test_a_block_that_adds_its_feed_forward_part_to_itself():
    """As the pre-norm blocks of the reference's data2vec 2.0 do."""
    model = randomise(Data2VecModel(tiny_config("text", norm_first=True, mlp_residual=False))).eval()
    usual = Data2VecModel(tiny_config("text", norm_first=True)).eval()
    usual.load_state_dict(model.state_dict())
    x = torch.randn(2, 6, 32)
    with torch.no_grad():
        output, feed_forward = model.encoder.blocks[0](x)
        same, before = usual.encoder.blocks[0](x)
    assert torch.equal(output, 2 * feed_forward) and torch.equal(feed_forward, before)
    assert not torch.allclose(output, same)
    with pytest.raises(ValueError, match="`mlp_residual=False`.*`norm_first`"):
        tiny_config("text", mlp_residual=False)


def test_norms_without_weights(tmp_path):
    model = randomise(Data2VecModel(tiny_config("audio", norm_first=True, norm_affine=False))).eval()
    names = [name for name in model.state_dict() if "norm" in name and "local_encoder" not in name]
    assert names == []
    model.save_pretrained(tmp_path)
    again, info = Data2VecModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    batch = inputs_for("audio")
    assert torch.equal(again.eval()(**batch).last_hidden_state, model(**batch).last_hidden_state)
