"""Configuration: validation in sentences, unknown keys, presets, JSON round trip."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from model_factory import MODALITIES, tiny_config

from modeling_d2v import Data2VecConfig


def test_json_round_trip_keeps_every_field(tmp_path):
    config = tiny_config(fairseq_compatible_padding=True, layer_scale_init_value=1e-4)
    config.save_pretrained(tmp_path)
    again = Data2VecConfig.from_pretrained(tmp_path)
    first, second = config.to_dict(), again.to_dict()
    assert {k for k in first if first[k] != second[k]} <= {"_name_or_path", "transformers_version"}
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "data2vec"


@pytest.mark.parametrize("modality", MODALITIES)
def test_only_the_modalities_present_have_a_sub_configuration(tmp_path, modality):
    tiny_config(modality).save_pretrained(tmp_path)
    config = Data2VecConfig.from_pretrained(tmp_path)
    assert config.modalities == [modality]
    assert {name: getattr(config, f"{name}_config") is not None for name in MODALITIES} == {
        name: name == modality for name in MODALITIES
    }
    other = next(name for name in MODALITIES if name != modality)
    with pytest.raises(ValueError, match=f"'{other}'.*{modality}"):
        config.modality_config(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(modalities=[]), "once"),
        (dict(modalities=["audio", "audio"]), "once"),
        (dict(modalities="sound"), "'text'.*'vision'.*'audio'"),
        (dict(modalities="text", audio_config={"mask_prob": 0.5}), "`modalities`.*'audio'"),
        (dict(hidden_size=100, num_attention_heads=12), "`num_attention_heads`"),
        (dict(masked_tokens="removed"), "'dropped'.*'replaced'"),
        (dict(problem_type="multilabel"), "`problem_type`.*'multilabel'"),
        (dict(hidden_dropout=1.5), "`hidden_dropout`.*1.5"),
        (dict(drop_path_rate=1.0), "below 1"),
        (dict(ema_decay=-0.1), "must be in"),
        (dict(num_attention_heads=0), "`num_attention_heads`"),
        (dict(hidden_act="gellu"), "`hidden_act`.*'gellu'"),
        (dict(ema_anneal_end_step=-5), "at least 0"),
        (dict(image_size=10), "`vision_config`"),
        (dict(modalities="vision", vision_config={"patch_size": 0}), "at least 1"),
        (dict(modalities="vision", vision_config={"cls_loss_weight": -1}), "at least 0"),
        (dict(modalities="text", text_config={"mask_random_prob": -1, "mask_keep_prob": 1.5}), "mask_random_prob"),
        (dict(modalities="audio", audio_config={"conv_stride": [0] * 7}), "`conv_stride`.*0"),
        (dict(modalities="audio", hidden_size=36, masked_tokens="replaced"), "conv_pos_groups"),
        (dict(modalities="audio", audio_config={"mask_prob": 1.0}), "a share between 0 and 1"),
        (dict(modalities="audio", audio_config={"mask_sampler": "block"}), "'random'.*'span'"),
        (dict(modalities="audio", audio_config={"conv_dim": [8, 8]}), "entry"),
        (dict(modalities="audio", audio_config={"average_top_k_layers": 13}), "prenet"),
        (dict(modalities="vision", vision_config={"patch_size": 15}), "multiples of 15"),
        (dict(modalities="vision", vision_config={"num_extra_tokens": 0}), "extra"),
        (dict(modalities="vision", vision_config={"alibi": "fixed", "relative_position_bias": True}), "not both"),
        (dict(modalities="vision", vision_config={"decoder_groups": 7}), "`decoder_groups`"),
        (dict(modalities="text", text_config={"mask_token_id": 60000}), "vocabulary"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        Data2VecConfig(**settings)


def test_overrides_on_loading_are_checked_and_merged(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'dropped'.*'replaced'"):
        Data2VecConfig.from_pretrained(tmp_path, masked_tokens="bogus")
    config = Data2VecConfig.from_pretrained(
        tmp_path,
        modalities="audio",
        text_config=None,
        vision_config=None,
        arrays_config=None,
        audio_config={"num_masks": 5},
    )
    assert config.modalities == ["audio"] and config.audio_config.num_masks == 5
    assert config.audio_config.conv_dim == [8] * 7


def test_a_configuration_that_was_spoilt_is_not_saved(tmp_path):
    config = tiny_config()
    config.vision_config.average_top_k_layers = 9
    with pytest.raises(StrictDataclassClassValidationError, match="average_top_k_layers"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_saving_again_points_to_the_code_beside_it(tmp_path):
    config = tiny_config()
    config.auto_map = {"AutoModel": "user/repo--modeling_data2vec.Data2VecModel", "AutoModelForX": "x.Y"}
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert saved["AutoModel"] == "modeling_data2vec.Data2VecModel" and saved["AutoModelForX"] == "x.Y"
