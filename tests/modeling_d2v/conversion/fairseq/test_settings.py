"""Settings of the reference become ours, are left out with a reason, or are errors."""

import pytest

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
