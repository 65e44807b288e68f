"""Settings that transformers can compute, and those that are refused."""

from typing import Any

import pytest
import transformers
from model_factory import tiny_config
from transformers_factory import encoder, shaped

from modeling_d2v import Data2VecConfig, Data2VecModel
from modeling_d2v.conversion.hf.export import to_transformers
from modeling_d2v.conversion.hf.export_settings import REQUIRED, export_settings


SPEECH_REASONS = ["audio_config.alibi is 'learned', there it can only be None: it has no attention bias by distance"]
VISION_REASONS = ["norm_first is False", "vision_config.context_norm is True", "position_embedding is 'sincos_2d'"]
# The published models that do not fit, with the reason.
UNFIT = {
    "audio-base": SPEECH_REASONS,
    "audio-large": [*SPEECH_REASONS, "audio_config.prenet_depth is 8"],
    "audio-spectrogram-base": ["audio_config.front_end is 'spectrogram', there it can only be 'convolutions'"],
    "audio-spectrogram-large": ["audio_config.front_end is 'spectrogram', there it can only be 'convolutions'"],
    "vision-base": VISION_REASONS,
    "vision-large": VISION_REASONS,
    "vision-huge": VISION_REASONS,
}


@pytest.mark.parametrize("name", [name for name in Data2VecConfig.preset_names() if name not in UNFIT])
def test_published_models_that_fit(name):
    """All of 1.0, and the text models of 2.0, whose encoder is the same."""
    config, modality = Data2VecConfig.preset(name), name.split("-")[0]
    settings, _ = export_settings(config, modality)
    whole = transformers.CONFIG_MAPPING[f"data2vec-{modality}"](**settings)
    assert (whole.hidden_size, whole.num_hidden_layers) == (config.hidden_size, config.num_hidden_layers)


@pytest.mark.parametrize("name", UNFIT)
def test_published_models_that_do_not_fit_are_refused_with_the_reason(name):
    modality = name.split("-")[0]
    with pytest.raises(ValueError, match=f"data2vec-{modality}") as caught:
        export_settings(Data2VecConfig.preset(name), modality)
    assert all(reason in str(caught.value) for reason in UNFIT[name])


WRONG: dict[tuple[str, str], Any] = {
    **{(name, "qk_norm"): True for name in ("text", "vision", "audio")},
    **{(name, "modality_embedding"): True for name in ("text", "vision", "audio")},
    ("text", "modality.front_end"): "perceiver",
    ("vision", "modality.front_end"): "perceiver",
    ("text", "norm_first"): True,
    ("text", "layer_scale_init_value"): 0.1,
    ("text", "modality.alibi"): "fixed",
    ("text", "modality.prenet_depth"): 1,
    ("text", "modality.num_extra_tokens"): 1,
    ("text", "modality.context_norm"): True,
    ("text", "modality.local_norm_eps"): 1e-6,
    ("text", "norm_affine"): False,
    ("text", "modality.position_embedding"): "sinusoidal",
    ("text", "modality.scale_embedding"): True,
    ("text", "modality.embedding_norm"): False,
    ("audio", "norm_affine"): False,
    ("audio", "modality.conv_norm"): "group",
    ("audio", "modality.conv_pos_pre_norm"): True,
    ("vision", "norm_affine"): False,
    ("vision", "mlp_residual"): False,
    ("audio", "norm_first"): True,
    ("audio", "layer_scale_init_value"): 0.1,
    ("audio", "modality.alibi"): "learned",
    ("audio", "modality.prenet_depth"): 1,
    ("audio", "modality.num_extra_tokens"): 2,
    ("audio", "modality.front_end"): "spectrogram",
    ("audio", "modality.context_norm"): False,
    ("audio", "modality.local_norm_eps"): 1e-6,
    ("audio", "modality.conv_pos_depth"): 0,
    ("vision", "norm_first"): False,
    ("vision", "modality.prenet_depth"): 1,
    ("vision", "modality.num_extra_tokens"): 2,
    ("vision", "modality.pooling_start"): 1,
    ("vision", "modality.context_norm"): True,
    ("vision", "modality.position_embedding"): "sincos_2d",
    ("vision", "modality.embed_dim"): 24,
    ("vision", "modality.alibi"): "learned",
}


def test_every_required_setting_is_tried():
    required = {(modality, only.field) for modality, settings in REQUIRED.items() for only in settings}
    assert required <= WRONG.keys()


@pytest.mark.parametrize("modality, field", WRONG)
def test_what_transformers_cannot_compute_is_refused_by_name(modality, field):
    name, value, settings = field.removeprefix("modality."), WRONG[modality, field], {}
    settings = {f"{modality}_config": {name: value}} if field.startswith("modality.") else {name: value}
    if (modality, name) == ("vision", "alibi"):
        settings["vision_config"]["relative_position_bias"] = False
    if name == "front_end":
        settings[f"{modality}_config"]["mask_sampler"] = "random"
    model = Data2VecModel(tiny_config(modality, **shaped(modality, **settings)))
    full = f"{modality}_config.{name}" if field.startswith("modality.") else name
    with pytest.raises(ValueError, match=rf"cannot compute what this model computes:\n  {full} is {value!r}"):
        to_transformers(model)


def test_settings_that_matter_in_training_alone_are_noted():
    model = encoder("text", hidden_dropout=0.1, mlp_dropout=0.2, layerdrop=0.3, drop_path_rate=0.4)
    exported, _, notes = to_transformers(model)
    assert exported.config.hidden_dropout_prob == 0.1
    text = "\n".join(notes)
    for part in (
        "mlp_dropout=0.2 is left out, which matters in training alone: hidden_dropout_prob=0.1",
        "layerdrop=0.3",
    ):
        assert part in text
    assert "drop_path_rate=0.4 is left out, which matters in training alone: it has no counterpart" in text
    assert "activation_dropout" not in text
