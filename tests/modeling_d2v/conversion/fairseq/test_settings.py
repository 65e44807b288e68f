"""Settings of the reference become ours, are left out with a reason, or are errors."""

import pytest
import torch

from modeling_d2v.conversion.fairseq.layouts import (
    config_from_fairseq,
)
from tests.modeling_d2v.reference_fixtures import V1, V2, load_reference


@pytest.mark.parametrize("name", V2 + V1)
def test_settings_left_out_are_listed_with_a_reason(name):
    reference, notes = load_reference(name), []
    config_from_fairseq(reference.record["config"], reference.kind, vocab_size=60, notes=notes)
    assert notes and all("=" in note and ": " in note for note in notes)


def test_settings_of_the_reference_become_ours():
    audio = load_reference("d2v2_audio_large").config()
    assert (audio.hidden_size, audio.num_hidden_layers, audio.num_attention_heads) == (36, 2, 6)
    assert (audio.intermediate_size, audio.masked_tokens, audio.ema_end_decay) == (144, "dropped", 1.0)
    mine = audio.audio_config
    assert (mine.prenet_depth, mine.num_masks, mine.mask_sampler, mine.ema_scope) == (2, 3, "span", "context")
    assert (mine.mask_prob, mine.mask_length, mine.mask_prob_adjust, mine.mask_noise_std) == (0.55, 5, 0.1, 0.0)
    assert (mine.conv_dim, mine.conv_kernel) == ([12] * 7, [10, 3, 3, 3, 3, 2, 2])
    assert (mine.alibi, mine.alibi_scale_per_head, mine.layer_target_norm) == ("learned", True, "instance")
    image = load_reference("d2v2_image_base").config().vision_config
    assert (image.mask_sampler, image.mean_target_norm, image.cls_loss_weight) == ("inverse_block", "layer", 0.01)
    assert (image.ema_scope, image.embed_dim, image.num_extra_tokens) == ("all", None, 1)
    text = load_reference("d2v1_text_base").config()
    assert (text.masked_tokens, text.text_config.loss_beta, text.text_config.loss_scale) == ("replaced", 4.0, 1.0)
    assert (text.text_config.mask_token_id, text.text_config.max_position_embeddings) == (59, 40)
    vision = load_reference("d2v1_image_base").config()
    assert (vision.norm_first, vision.layer_scale_init_value, vision.drop_path_rate) == (True, 1e-4, 0.25)
    assert vision.vision_config.mask_prob == 7 / 16 and vision.vision_config.end_of_block_targets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"brand_new": 1}, r"\['brand_new'\]"),
        ({"recon_loss": 0.5}, r"model\.recon_loss.*`encoder_only`"),
        ({"modalities": {}}, "model.modalities.*'audio'"),
        ({"modalities": {"audio": 3}}, "dictionary"),
    ],
)
def test_settings_that_cannot_be_converted_are_errors(changes, message):
    settings = load_reference("d2v2_audio_base").record["config"] | changes
    with pytest.raises((ValueError, TypeError), match=message):
        config_from_fairseq(settings, "fairseq-v2")


def target_norms(name, **flags):
    reference = load_reference(name)
    norms = "batch_norm_target_layer instance_norm_target_layer layer_norm_target_layer group_norm_target_layer "
    cleared = dict.fromkeys((norms + "layer_norm_targets instance_norm_targets").split(), False)
    known = {key: value for key, value in cleared.items() if key in reference.record["config"]}
    config = config_from_fairseq(reference.record["config"] | known | flags, reference.kind, vocab_size=60)
    settings = config.modality_config(config.modalities[0])
    return settings.layer_target_norm, settings.mean_target_norm


def test_norms_of_targets_keep_their_order():
    everywhere = {"layer_norm_target_layer": True, "instance_norm_target_layer": True, "layer_norm_targets": True}
    for name in (*V1, "d2v2_audio_base", "d2v2_image_base", "d2v2_text_base"):
        assert target_norms(name) == (None, None)
        assert target_norms(name, batch_norm_target_layer=True) == ("batch", None)
        expected = (["batch", "instance", "layer"], ["layer", "instance"])
        given = everywhere | {"batch_norm_target_layer": True, "instance_norm_targets": True}
        assert target_norms(name, **given) == expected


def test_norms_of_audio_targets_run_over_samples_where_the_reference_keeps_time_in_front():
    def audio(**flags):
        return target_norms("d2v1_audio_base", **flags)

    assert audio(instance_norm_targets=True) == (None, "sample")
    assert audio(layer_norm_target_layer=True, instance_norm_targets=True) == ("layer", "sample")
    assert audio(instance_norm_target_layer=True, instance_norm_targets=True) == ("instance", "instance")
    assert audio(group_norm_target_layer=True) == ("position", None)
    assert audio(group_norm_target_layer=True, batch_norm_target_layer=True) == (["batch", "group"], None)


@pytest.mark.parametrize(
    ("name", "changes", "field", "expected"),
    [
        ("d2v1_audio_base", {"encoder_ffn_embed_dim": 7}, "intermediate_size", None),
        ("d2v1_audio_base", {"encoder_layers": 9, "pos_conv_depth": 9}, "num_hidden_layers", None),
        ("d2v1_audio_base", {"extractor_mode": "default"}, "audio_config.conv_norm", "layer"),
        ("d2v1_audio_base", {"conv_pos": 3, "conv_pos_groups": 1}, "audio_config.conv_pos_kernel", None),
        ("d2v1_audio_groupnorm", {"extractor_mode": "layer_norm"}, "audio_config.conv_norm", "group"),
        ("d2v1_audio_groupnorm", {"ema_transformer_only": True}, "audio_config.ema_scope", "all"),
        ("d2v1_image_base", {"mlp_ratio": 2}, "intermediate_size", None),
        ("d2v1_image_base", {"num_heads": 2, "image_size": 224}, "num_attention_heads", None),
        ("d2v1_image_base", {"layer_scale_init_value": 0.0}, "layer_scale_init_value", 1e-4),
        ("d2v1_text_base", {"head_layers": 5}, "text_config.decoder_projection_layers", None),
        ("d2v1_text_base", {"max_positions": 7}, "text_config.max_position_embeddings", None),
    ],
)  # fmt: skip
def test_tensors_are_believed_where_the_settings_contradict_them(name, changes, field, expected):
    def read(settings, notes):
        config = config_from_fairseq(settings, reference.kind, vocab_size=60, state=reference.state, notes=notes)
        for part in field.split("."):
            config = getattr(config, part)
        return config

    reference, notes = load_reference(name), []
    settings = reference.record["config"]
    assert read(settings | changes, notes) == (read(settings, []) if expected is None else expected)
    told = [note for note in notes if any(note.startswith(f"{key}=") for key in changes)]
    assert told or "max_positions" in changes or "layer_scale_init_value" in changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_type": "conformer"}, "conformer.*convolution"),
        ({"layer_type": "trf_adp", "adp_num": 2}, None),
        ({"pos_conv_depth": 1}, None),
        ({"conv_feature_layers": "[(8, 10, 5)]"}, "describes 1 convolutions.*holds 7"),
        ({"brand_new": 1}, "brand_new"),
    ],
)
def test_audio_settings_that_are_refused_say_what_is_missing(changes, message):
    """Adapters and a single position convolution are believed only if the tensors do not say otherwise."""
    reference = load_reference("d2v1_audio_base")
    settings = reference.record["config"] | changes
    if message is None:
        config_from_fairseq(settings, reference.kind, state=reference.state)
        with pytest.raises(ValueError, match="adapters" if "adp_num" in changes else "weight-normalised"):
            without = {"encoder.layers.0.adapter_layer.W_a": torch.ones(1)} if "adp_num" in changes else {}
            config_from_fairseq(settings, reference.kind, state=without)
    else:
        with pytest.raises(ValueError, match=message):
            config_from_fairseq(settings, reference.kind, state=reference.state)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_channel_prob": 0.2},
        {"mask_selection": "poisson", "mask_other": 2},
        {"no_mask_overlap": True},
        {"mask_dropout": 0.1},
    ],
)
def test_masks_that_are_drawn_differently_here_are_noted(changes):
    reference, notes = load_reference("d2v1_audio_base"), []
    config_from_fairseq(reference.record["config"] | changes, reference.kind, notes=notes)
    assert all(
        any(note.startswith(f"{name}={value!r}: without effect") for note in notes) for name, value in changes.items()
    )


@pytest.mark.parametrize("spec", ["[(12, 10)]", "12", "__import__('os')", "[(1, 2, 3)", "[(1, 2, 3), (1, 2)]"])
def test_convolutions_that_cannot_be_read(spec):
    settings = load_reference("d2v1_audio_base").record["config"] | {"conv_feature_layers": spec}
    with pytest.raises(ValueError, match="convolutions"):
        config_from_fairseq(settings, "fairseq-v1-audio")


def test_text_needs_the_size_of_its_vocabulary():
    for name in ("d2v2_text_base", "d2v1_text_base"):
        reference = load_reference(name)
        with pytest.raises(ValueError, match="`vocab_size`"):
            config_from_fairseq(reference.record["config"], reference.kind)
