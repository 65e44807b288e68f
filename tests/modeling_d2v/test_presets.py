"""The published configurations, against numbers written down a second time from the papers and their files."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.masking import sample_masks
from modeling_d2v.presets import PRESET_SOURCES, PRESETS, get_preset, preset_names


# name: blocks, prenet, width, heads | M, mask p, length, adjust, sampler | K, layer norm, mean norm
#       | decoder layers, kernel, width, groups | EMA start, end, steps, scope
VERSION_2 = {
    "audio-base": (12, 0, 768, 12, 8, 0.5, 5, 0.05, "span", 8, "instance", None)
    + (4, 7, 384, 16, 0.999, 0.99999, 75_000, "context"),
    "audio-large": (16, 8, 1024, 16, 12, 0.55, 5, 0.1, "span", 16, "instance", None)
    + (4, 7, 768, 16, 0.9997, 1.0, 300_000, "context"),
    "audio-spectrogram-base": (12, 0, 768, 12, 16, 0.8, 5, 0.07, "inverse_block", 12, "instance", "layer")
    + (6, 3, 768, 16, 0.9998, 0.99999, 100_000, "all"),
    "audio-spectrogram-large": (24, 0, 1024, 16, 16, 0.75, 5, 0.1, "inverse_block", 24, "instance", "layer")
    + (3, 5, 1024, 16, 0.9998, 0.99999, 150_000, "all"),
    "vision-base": (10, 2, 768, 12, 16, 0.8, 3, 0.07, "inverse_block", 10, "instance", "layer")
    + (6, 3, 768, 16, 0.9998, 0.99999, 100_000, "all"),
    "vision-large": (24, 0, 1024, 16, 16, 0.75, 3, 0.1, "inverse_block", 18, "instance", "layer")
    + (3, 5, 1024, 16, 0.9998, 0.99999, 150_000, "all"),
    "vision-huge": (32, 0, 1280, 16, 16, 0.75, 3, 0.1, "inverse_block", 24, "instance", "layer")
    + (3, 5, 1024, 16, 0.9998, 1.0, 300_000, "all"),
    "text-base": (12, 0, 768, 12, 8, 0.48, 1, 0.0, "random", 12, "instance", None)
    + (5, 9, 768, 1, 0.9999, 0.99999, 100_000, "blocks"),
    "text-large": (24, 0, 1024, 16, 8, 0.5, 1, 0.0, "random", 24, "layer", "instance")
    + (5, 9, 768, 1, 0.9999, 0.99999, 100_000, "blocks"),
}
# name: blocks, width, heads, pre-norm | K, layer norm, mean norm | smooth L1 beta, layers of the head | EMA
VERSION_1 = {
    "audio-base-v1": (12, 768, 12, False, 8, "instance", None, 0.0, 1, 0.999, 0.9999, 30_000),
    "audio-large-v1": (24, 1024, 16, False, 8, "instance", None, 0.0, 1, 0.999, 0.9999, 30_000),
    "vision-base-v1": (12, 768, 12, True, 6, "layer", "layer", 2.0, 1, 0.9998, 0.9998, None),
    "vision-large-v1": (24, 1024, 16, True, 6, "layer", "layer", 2.0, 1, 0.9998, 0.9998, None),
    "text-base-v1": (12, 768, 12, False, 10, "layer", None, 4.0, 2, 0.999, 0.9999, 300_000),
}


def modality_of(name: str):
    config = Data2VecConfig.preset(name)
    return config, config.modality_config(name.split("-")[0])


def test_every_row_is_checked_and_has_a_source():
    assert set(preset_names()) == set(VERSION_2) | set(VERSION_1) == set(PRESET_SOURCES)


@pytest.mark.parametrize("name", VERSION_2)
def test_version_2_has_the_published_numbers(name):
    config, sub = modality_of(name)
    model = (config.num_hidden_layers, sub.prenet_depth, config.hidden_size, config.num_attention_heads)
    masks = (sub.num_masks, sub.mask_prob, sub.mask_length, sub.mask_prob_adjust, sub.mask_sampler)
    targets = (sub.average_top_k_layers, sub.layer_target_norm, sub.mean_target_norm)
    decoder = (sub.decoder_layers, sub.decoder_kernel_size, sub.decoder_hidden_size, sub.decoder_groups)
    teacher = (config.ema_decay, config.ema_end_decay, config.ema_anneal_end_step, sub.ema_scope)
    assert model + masks + targets + decoder + teacher == VERSION_2[name]
    assert config.modalities == [name.split("-")[0]]
    assert config.intermediate_size == 4 * config.hidden_size
    assert (config.masked_tokens, config.norm_first, config.layer_scale_init_value) == ("dropped", False, None)
    assert (sub.loss_beta, sub.end_of_block_targets, sub.ema_copied) == (0.0, False, None)


@pytest.mark.parametrize("name", VERSION_1)
def test_version_1_has_the_published_numbers(name):
    config, sub = modality_of(name)
    model = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.norm_first)
    targets = (sub.average_top_k_layers, sub.layer_target_norm, sub.mean_target_norm)
    head = (sub.loss_beta, sub.decoder_projection_layers)
    constant = config.ema_decay == config.ema_end_decay
    teacher = (config.ema_decay, config.ema_end_decay, None if constant else config.ema_anneal_end_step)
    assert model + targets + head + teacher == VERSION_1[name]
    assert config.intermediate_size == 4 * config.hidden_size
    assert (config.masked_tokens, sub.num_masks, sub.decoder_layers, sub.prenet_depth) == ("replaced", 1, 0, 0)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("audio-spectrogram")])
def test_spectrogram_front_end(name):
    """AudioSet's 10.24 seconds are 64 x 8 patches."""
    config, sub = modality_of(name)
    assert (sub.front_end, sub.mel_bins, sub.mel_window, sub.mel_hop) == ("spectrogram", 128, 400, 160)
    assert (sub.sampling_rate, sub.mel_mean, sub.mel_std) == (16000, -4.268, 4.569)
    assert sub.token_grid((1023 * 160 + 400,)) == (64, 8)
    assert (sub.num_extra_tokens, sub.init_extra_token_zero, sub.alibi, sub.context_norm) == (1, False, None, True)
    assert (sub.cls_loss_weight, sub.cls_loss_rows, sub.loss_scale, sub.prenet_dropout) == (1.0, 192, None, 0.0)
    assert (config.hidden_dropout, config.mlp_dropout, config.attention_dropout, config.layerdrop) == (0,) * 4
    assert (config.layer_norm_eps, config.drop_path_rate, sub.decoder_input_dropout) == (1e-6, 0.0, 0.0)


CONVOLUTIONS = [name for name in preset_names() if name.startswith("audio") and "spectrogram" not in name]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_speech_front_end(name):
    config, sub = modality_of(name)
    assert sub.conv_dim == [512] * 7
    assert (sub.frame_width, sub.frame_stride, sub.sampling_rate) == (400, 320, 16000)
    assert (sub.conv_pos_depth, sub.conv_pos_width, sub.conv_pos_groups, sub.context_norm) == (5, 95, 16, True)
    assert (sub.loss_scale, sub.prenet_dropout, config.hidden_dropout) == (None, 0.1, 0.1)
    learned = not name.endswith("-v1")
    assert (sub.alibi, sub.alibi_scale_per_head) == (
        ("learned", True) if learned else (None, sub.alibi_scale_per_head)
    )
    assert config.layerdrop == (0.0 if name == "audio-large" else 0.05)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("vision")])
def test_vision_front_end(name):
    config, sub = modality_of(name)
    assert (sub.image_size, sub.patch_size, sub.num_extra_tokens) == (224, 14 if name == "vision-huge" else 16, 1)
    assert config.layer_norm_eps == 1e-6
    assert (config.hidden_dropout, config.mlp_dropout, config.activation_dropout) == (0.0, 0.0, 0.0)
    if name.endswith("-v1"):
        base = "base" in name
        assert (sub.position_embedding, sub.relative_position_bias, sub.context_norm) == ("none", True, False)
        assert (sub.end_of_block_targets, sub.cls_loss_weight, sub.ema_scope) == (True, 0.0, "all")
        assert config.layer_scale_init_value == (1e-4 if base else 1e-5)
        assert (config.drop_path_rate, config.attention_dropout) == ((0.25, 0.05) if base else (0.2, 0.15))
        assert sub.loss_scale * config.hidden_size == 1.0
    else:
        assert (sub.position_embedding, sub.cls_loss_weight, sub.loss_scale) == ("sincos_2d", 0.01, None)
        assert (config.drop_path_rate, config.attention_dropout) == (0.0, 0.0)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("text")])
def test_text_front_end(name):
    config, sub = modality_of(name)
    assert (sub.vocab_size, sub.max_position_embeddings, sub.mask_token_id) == (50265, 512, 50264)
    assert (sub.bos_token_id, sub.pad_token_id, sub.eos_token_id) == (0, 1, 2)
    assert (sub.loss_scale, sub.context_norm, sub.embedding_dropout, config.layerdrop) == (1.0, False, 0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "tokens", "grid", "masked"),
    [
        ("audio-base", 300, None, 150),
        ("vision-base", 196, (14, 14), 157),
        ("text-base", 512, None, 246),
        ("audio-base-v1", 500, None, 244),  # 49 %, section 5.2 of the paper
        ("vision-base-v1", 196, (14, 14), 120),
        ("text-base-v1", 512, None, 157),  # 31 %: spans of 4 from 0.35 / 4 of the tokens
    ],
)
def test_masks_cover_the_published_share(name, tokens, grid, masked):
    _, sub = modality_of(name)
    ids = torch.arange(3)
    mask = sample_masks(sub, torch.full((3,), tokens), seed=0, step=0, sample_ids=ids, grid=grid)
    assert mask.sum(-1).unique().tolist() == [masked]


def test_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match="'vision-large'"):
        get_preset("vision-lrage")


def test_a_preset_may_be_changed_without_changing_the_table():
    get_preset("audio-base")["audio_config"]["conv_dim"].append(1)
    assert PRESETS["audio-base"]["audio_config"]["conv_dim"] == [512] * 7
    rows = [PRESETS["audio-base"], PRESETS["audio-large"]]
    assert rows[0]["audio_config"] is not rows[1]["audio_config"]


def test_overrides_replace_single_fields():
    config = Data2VecConfig.preset("vision-base", layerdrop=0.1, vision_config={"num_masks": 4})
    assert (config.layerdrop, config.vision_config.num_masks, config.vision_config.prenet_depth) == (0.1, 4, 2)


def test_the_table_needs_the_standard_library_only():
    path = importlib.util.find_spec("modeling_d2v.presets").origin
    code = (
        f"import runpy, sys; runpy.run_path({path!r}); print(*{{'torch', 'transformers', 'numpy'}} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(path).root
    )
    assert output.stdout.strip() == ""


@pytest.mark.parametrize("name", Data2VecConfig.preset_names())
def test_every_preset_is_a_valid_configuration_that_survives_json(tmp_path, name):
    config = Data2VecConfig.preset(name)
    config.save_pretrained(tmp_path)
    assert Data2VecConfig.from_pretrained(tmp_path).to_diff_dict() == config.to_diff_dict()


def test_preset_overrides_are_merged_into_sub_configurations():
    published = Data2VecConfig.preset("audio-base").audio_config
    config = Data2VecConfig.preset("audio-base", hidden_dropout=0.0, audio_config={"num_masks": 3})
    assert config.hidden_dropout == 0.0
    assert config.audio_config.num_masks == 3
    assert config.audio_config.mask_prob == published.mask_prob
    assert Data2VecConfig.preset("audio-base").audio_config.num_masks == 8


def test_unknown_preset_names_the_nearest_one():
    with pytest.raises(ValueError, match="audio-base"):
        Data2VecConfig.preset("audio-bas")
