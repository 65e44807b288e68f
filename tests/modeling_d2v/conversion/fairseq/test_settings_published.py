"""Settings of the published models of 1.0 for weights that come without."""

import pytest

from modeling_d2v import Data2VecConfig
from modeling_d2v.conversion.fairseq.layouts import config_from_fairseq
from modeling_d2v.conversion.fairseq.settings_published import PUBLISHED, published_settings


NAMES = {
    "fairseq-v1-audio": "post_extract_proj.bias",
    "fairseq-v1-text": "encoder.sentence_encoder.embed_tokens.weight",
    "fairseq-v1-vision": "patch_embed.conv.weight",
}
PRESETS = {"fairseq-v1-audio": "audio-base-v1", "fairseq-v1-text": "text-base-v1"}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_what_is_assumed_is_said(kind):
    before = str(PUBLISHED)
    settings, said = published_settings(kind, {NAMES[kind]: (50265, 768)})
    assert "no settings" in said and "as published" in said and ("12 heads" in said) == (kind != "fairseq-v1-vision")
    assert settings and str(PUBLISHED) == before


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16)])
def test_heads_follow_from_published_widths(width, heads):
    audio, _ = published_settings("fairseq-v1-audio", {NAMES["fairseq-v1-audio"]: (width,)})
    text, _ = published_settings("fairseq-v1-text", {NAMES["fairseq-v1-text"]: (50265, width)})
    assert audio["encoder_attention_heads"] == text["transformer"]["encoder"]["attention_heads"] == heads


@pytest.mark.parametrize("shapes", [{}, {"post_extract_proj.bias": (36,)}, {"_ema.post_extract_proj.bias": (768,)}])
def test_other_widths_tell_no_heads(shapes):
    with pytest.raises(ValueError, match='heads.*{"encoder_attention_heads": 8}'):
        published_settings("fairseq-v1-audio", shapes)


@pytest.mark.parametrize(("kind", "preset"), PRESETS.items())
def test_targets_and_loss_are_those_of_the_presets(kind, preset):
    settings, _ = published_settings(kind, {NAMES[kind]: (50265, 768)})
    # Sizes, which the tensors would tell.
    if "audio" in kind:
        settings["pos_conv_depth"] = 5
    else:
        settings["transformer"]["encoder"] |= {"embed_dim": 768, "layers": 12}
    config = config_from_fairseq(settings, kind, vocab_size=99)
    ours, theirs = (each.modality_config(each.modalities[0]) for each in (config, Data2VecConfig.preset(preset)))
    fields = "average_top_k_layers layer_target_norm mean_target_norm loss_beta loss_scale ema_scope ema_copied"
    for field in [*fields.split(), "decoder_projection_layers"]:
        assert getattr(ours, field) == getattr(theirs, field), field
    assert config.ema_anneal_end_step == Data2VecConfig.preset(preset).ema_anneal_end_step
