"""The released image models of data2vec 1.0, in the layout of BEiT's program, against data2vec-vision of transformers.

The checkpoints are made by translating a model of transformers into that layout, which its converter undoes.
"""

import re

import pytest
import torch
from torch import nn
from transformers import Data2VecVisionConfig, Data2VecVisionForImageClassification, Data2VecVisionModel

from modeling_d2v import Data2VecForImageClassification, Data2VecForPreTraining, Data2VecModel
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from tests.modeling_d2v.reference_fixtures import relative_error


ARGUMENTS = {
    "model": "beit_base_patch16_224",
    "batch_size": 128,
    "target_layers": "[1,2]",
    "num_mask_patches": 10,
    "drop_path": 0.25,
    "attn_drop_rate": 0.05,
    "layer_scale_init_value": 1e-4,
    "l1_beta": 2.0,
    "ema_decay": 0.9998,
    "ema_decay_init": 0.999,
    "ema_start_at": 0,
    "layer_results": "end",
    "post_target_layer_norm": True,
    "imagenet_default_mean_and_std": True,
}
TO_BEIT = (
    (r"^data2vec_vision\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.", ""),
    (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.lambda_", ".gamma_"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)


def theirs(model_class, **options):
    config = Data2VecVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        use_shared_relative_position_bias=True,
        layer_norm_eps=1e-6,
        layer_scale_init_value=0.1,
        out_indices=[0, 1, 2],
        **options,
    )
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def in_layout_of_beit(model):
    """The state dict under BEiT's names: one matrix for query, key and value, biases of query and value."""
    state = {}
    for name, tensor in model.state_dict().items():
        for pattern, new in TO_BEIT:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    for name in [name for name in state if ".attention.attention.query.weight" in name]:
        stem, new = name.removesuffix("query.weight"), name.replace(".attention.attention.query", ".attn.qkv")
        state[new] = torch.cat([state.pop(f"{stem}{part}.weight") for part in ("query", "key", "value")])
        for part in "query", "value":
            state[new.replace("qkv.weight", f"{part[0]}_bias")] = state.pop(f"{stem}{part}.bias")
    state["rel_pos_bias.relative_position_index"] = torch.zeros(17, 17, dtype=torch.int64)
    return state


def pretrained():
    """A checkpoint of pretraining with a teacher of its own."""
    student = theirs(Data2VecVisionModel, use_mean_pooling=False, use_mask_token=True)
    teacher = theirs(Data2VecVisionModel, use_mean_pooling=False, use_mask_token=True)
    content = {"epoch": 799, "optimizer": {}, "scaler": {}, "args": dict(ARGUMENTS)}
    for key, model in {"model": student, "model_ema": teacher}.items():
        state = {name: value for name, value in in_layout_of_beit(model).items() if "fc_norm" not in name}
        content[key] = state | {f"lm_head.{name}": value for name, value in nn.Linear(32, 32).state_dict().items()}
    return content, student, teacher


def fine_tuned(**options):
    model = theirs(Data2VecVisionForImageClassification, num_labels=5, **options)
    return {"module": in_layout_of_beit(model)}, model


def convert(content, tmp_path, **options):
    path = tmp_path / "checkpoint-799.pth"
    torch.save(content, path)
    return convert_checkpoint(path, **options)


@torch.no_grad()
def outputs(model, pixels, name="last_hidden_state"):
    return getattr(model(pixel_values=pixels), name)


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_the_encoders_compute_what_those_of_transformers_compute(weights, tmp_path):
    content, student, teacher = pretrained()
    model = convert(content, tmp_path, encoder_only=True, weights=weights).build()
    assert type(model) is Data2VecModel
    pixels = torch.randn(2, 3, 64, 64)
    expected = outputs(student if weights == "student" else teacher, pixels)
    assert relative_error(outputs(model, pixels), expected) < 1e-5


def test_what_was_pretrained_can_be_pretrained_further(tmp_path):
    content, _, _ = pretrained()
    converted = convert(content, tmp_path)
    assert converted.model_class is Data2VecForPreTraining
    vision, config = converted.config.vision_config, converted.config
    assert (vision.average_top_k_layers, vision.end_of_block_targets, vision.loss_beta) == (2, True, 2.0)
    assert (vision.layer_target_norm, vision.mean_target_norm, vision.mask_prob) == ("layer", "layer", 10 / 16)
    assert (config.drop_path_rate, config.attention_dropout) == (0.25, 0.05)
    assert (config.ema_decay, config.ema_end_decay) == (0.9998, 0.9998)
    unused = {entry.name for entry in converted.unused}
    assert unused == {
        "rel_pos_bias.relative_position_index",
        "_ema.rel_pos_bias.relative_position_index",
        "_ema.lm_head.weight",
        "_ema.lm_head.bias",
        "_ema.mask_token",
    }
    model, pixels = converted.build(), torch.randn(2, 3, 64, 64)
    output = model(pixel_values=pixels)
    mask, hidden = output.mask[:, 0], outputs(model.data2vec, pixels)
    assert output.loss.isfinite() and hidden.shape == (2, 17, 32) and mask.sum() == output.num_items
    prediction = nn.functional.linear(
        model.data2vec(pixel_values=pixels, mask=mask).last_hidden_state[:, 1:][mask],
        content["model"]["lm_head.weight"],
        content["model"]["lm_head.bias"],
    )
    assert relative_error(output.predictions, prediction) < 1e-5


def test_other_targets_and_losses(tmp_path):
    """Norms in the order of that program, which is not fairseq's for the mean; feed-forward parts with their scale."""
    content, _, _ = pretrained()
    args = {"target_batch_norm": True, "target_instance_norm": True, "post_target_instance_norm": True}
    args |= {"post_target_layer_norm": True, "layer_results": "fc", "loss_scale": 4.0, "target_layers": "[-1, -2]"}
    args |= {"mask_dropout_prob": 0.1, "var_w0": 0.5}
    content["args"] |= args
    converted = convert(content, tmp_path)
    vision = converted.config.vision_config
    assert vision.layer_target_norm == ["batch", "instance", "layer"]
    assert vision.mean_target_norm == ["instance", "layer"] and vision.average_top_k_layers == 2
    assert (vision.end_of_block_targets, vision.scaled_targets, vision.loss_scale) == (False, True, 4 / 32)
    notes = [note for note in converted.notes if "without effect on further pretraining" in note]
    assert [note.partition("=")[0] for note in notes] == ["mask_dropout_prob", "var_w0"]


@pytest.mark.parametrize("mean", [True, False])
def test_image_classification(mean, tmp_path):
    content, model = fine_tuned(use_mean_pooling=mean)
    converted = convert(content, tmp_path)
    assert converted.model_class is Data2VecForImageClassification and converted.config.num_labels == 5
    assert converted.config.vision_config.use_mean_pooling is mean and converted.config.final_norm is not mean
    converted.save(tmp_path / "model")
    again, info = Data2VecForImageClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    pixels = torch.randn(2, 3, 64, 64)
    assert relative_error(outputs(again, pixels, "logits"), outputs(model, pixels, "logits")) < 1e-5


def test_settings_without_arguments_are_the_published_ones(tmp_path):
    content, _, _ = pretrained()
    del content["args"]
    vision = convert(content, tmp_path).config.vision_config
    assert (vision.image_size, vision.patch_size, vision.loss_beta, vision.loss_scale) == (64, 16, 2.0, 1 / 32)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("pos_embed", torch.ones(1, 17, 32), "absolute"),
        ("blocks.0.attn.relative_position_bias_table", torch.ones(52, 4), "relative"),
        ("lm_head.weight", torch.ones(8192, 32), "BEiT.*8192"),
    ],
)
def test_models_of_beit_are_told_apart(name, tensor, message, tmp_path):
    content, _, _ = pretrained()
    content["model"][name] = tensor
    with pytest.raises(ValueError, match=message):
        convert(content, tmp_path)


def test_what_is_missing_is_named(tmp_path):
    content, _, _ = pretrained()
    del content["model"]["rel_pos_bias.relative_position_bias_table"]
    with pytest.raises(ValueError, match="rel_pos_bias.relative_position_bias_table"):
        convert(content, tmp_path)


def test_targets_with_gaps_and_frozen_classifiers_have_no_counterpart(tmp_path):
    content, _, _ = pretrained()
    content["args"]["target_layers"] = "[0, 2]"
    with pytest.raises(ValueError, match=r"target_layers.*\[0.*2\]"):
        convert(content, tmp_path)
    content, _ = fine_tuned()
    content["module"] = {key: value for key, value in content["module"].items() if "norm." not in key[:8]}
    with pytest.raises(ValueError, match="frozen"):
        convert(content, tmp_path)
