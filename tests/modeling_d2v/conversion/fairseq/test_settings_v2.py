"""Settings of data2vec 2.0: translated, corrected by the tensors, noted, or refused with what is missing."""

import copy

import pytest
import torch

from modeling_d2v import Data2VecModel
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from modeling_d2v.conversion.fairseq.layouts import config_from_fairseq
from tests.modeling_d2v.reference_fixtures import FOLDER, VARIANTS, load_reference
from tests.modeling_d2v.source_checkpoints import write


def settings_of(name):
    """The settings of a variant, and its state dict."""
    reference = load_reference(name, FOLDER / "variants")
    return copy.deepcopy(reference.record["config"]), reference.state


def changed(settings, changes):
    """Settings with some replaced; those of the modality and its decoder after a dot."""
    (section,) = settings["modalities"].values()
    for name, value in changes.items():
        place, _, key = name.rpartition(".")
        {"": settings, "modality": section, "decoder": section["decoder"]}[place][key] = value
    return settings


def convert(settings, state, **options):
    notes = []
    vocabulary = [value.shape[0] for name, value in state.items() if name.endswith("embed_tokens.weight")]
    config = config_from_fairseq(
        settings, "fairseq-v2", vocab_size=vocabulary[0] if vocabulary else None, state=state, notes=notes, **options
    )
    return config, notes


def content(name, settings=None, **changes):
    own, state = settings_of(name)
    state |= changes
    return {"cfg": {"model": settings or own, "task": {}}, "model": state, "optimizer_history": [{"num_updates": 3}]}


WRONG = [
    ("audio_pre_norm", {"mlp_ratio": 3.0}, "mlp_ratio"),
    ("audio_pre_norm", {"embed_dim": 24, "depth": 7, "layer_norm_first": False}, "depth"),
    ("audio_pre_norm", {"modality.prenet_depth": 4, "modality.num_extra_tokens": 0}, "num_extra_tokens"),
    ("audio_pre_norm", {"modality.conv_pos_pre_ln": False, "modality.conv_pos_width": 95}, "conv_pos_pre_ln"),
    ("audio_pre_norm", {"modality.conv_pos_depth": 5, "modality.conv_pos_groups": 16}, "conv_pos_groups"),
    ("audio_pre_norm", {"decoder.projection_layers": 1, "decoder.projection_ratio": 2.0}, "projection_ratio"),
    ("audio_pre_norm", {"decoder.decoder_dim": 384, "decoder.decoder_layers": 5}, "decoder_dim"),
    ("audio_pre_norm", {"decoder.decoder_kernel": 7, "decoder.decoder_groups": 16}, "decoder_kernel"),
    ("audio_pre_norm", {"modality.feature_encoder_spec": "[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(8, 4, 2)]"}, "conv_"),
    ("audio_group_norm", {"modality.extractor_mode": "layer_norm"}, "extractor_mode"),
    ("audio_blocks_teacher", {"norm_affine": True}, "norm_affine"),
    ("audio_blocks_teacher", {"modality.use_alibi_encoder": False}, "use_alibi_encoder"),
    ("audio_blocks_teacher", {"modality.learned_alibi_scale_per_layer": False}, "per_layer"),
    ("audio_blocks_teacher", {"modality.learned_alibi_scale_per_head": False}, "per_head"),
    (
        "image_positions",
        {"modality.embed_dim": 16, "modality.patch_size": 4, "modality.input_size": 224},
        "patch_size",
    ),
    ("image_pixels", {"modality.transformer_decoder": False}, "transformer_decoder"),
    ("image_pixels", {"modality.enc_dec_transformer": True}, "enc_dec_transformer"),
    ("image_cross_attention", {"modality.enc_dec_transformer": False}, "enc_dec_transformer"),
    ("text_sinusoidal", {"modality.layernorm_embedding": True}, "layernorm_embedding"),
]


@pytest.mark.parametrize(("name", "changes", "noted"), WRONG)
def test_tensors_are_believed_where_settings_say_something_else(name, changes, noted):
    settings, state = settings_of(name)
    right, silent = convert(copy.deepcopy(settings), state)
    config, notes = convert(changed(settings, changes), state)
    assert config.to_dict() == right.to_dict()
    assert any(noted in note for note in notes) and not any("tensors" in note for note in silent)


@pytest.mark.parametrize(
    ("name", "changes", "noted"),
    [
        ("audio_pre_norm", {"start_drop_path_rate": 0.1}, "start_drop_path_rate"),
        ("audio_pre_norm", {"modality.mask_prob_min": 0.1}, "mask_prob_min"),
        ("audio_pre_norm", {"modality.keep_masked_pct": 0.2}, "keep_masked_pct"),
        ("audio_pre_norm", {"modality.mask_dropout": 0.2, "modality.add_masks": True}, "add_masks"),
        ("audio_pre_norm", {"modality.mask_channel_prob": 0.3}, "mask_channel_prob"),
        ("audio_pre_norm", {"modality.encoder_zero_mask": False}, "encoder_zero_mask"),
        ("text_sinusoidal", {"modality.inverse_mask": True}, "inverse_mask"),
        ("image_positions", {"decoder.projection_layers": 4}, "projection_layers"),
        ("audio_some_heads", {"cls_loss": 0.1}, "cls_loss"),
        ("text_sinusoidal", {"modality.mask_prob": 1.0}, "mask_prob"),
    ],
)
def test_what_has_no_counterpart_in_further_pretraining_is_noted(name, changes, noted):
    settings, state = settings_of(name)
    right, _ = convert(copy.deepcopy(settings), state)
    config, notes = convert(changed(settings, changes), state)
    assert any(noted in note for note in notes)
    for field in ("text_config", "vision_config", "audio_config"):
        for each in (right, config):
            if getattr(each, field):
                getattr(each, field).mask_prob = 0.5
    assert config.to_dict() == right.to_dict()


MISSING = [
    ("audio_pre_norm", {"modality.learned_alibi": True}, "every pair of positions", False),
    ("image_positions", {"modality.alibi_dims": 3}, "alibi_dims", False),
    ("audio_blocks_teacher", {"modality.model_depth": 5}, "model_depth", False),
    ("audio_pre_norm", {"recon_loss": 0.5}, "only pixels", True),
    ("audio_pre_norm", {"decoder.add_positions_all": True}, "fixed positions", True),
    ("image_sequence", {"decoder.add_positions_masked": True}, "fixed positions", True),
    ("image_cross_attention", {"decoder.add_positions_all": True}, "in no order", True),
    ("image_cross_attention", {"modality.fixed_positions": False}, "no fixed positions", True),
    ("audio_pre_norm", {"modality.decoder": None}, "needs a decoder", True),
]


@pytest.mark.parametrize(("name", "changes", "missing", "concerns_pretraining"), MISSING)
def test_what_is_missing_is_said(name, changes, missing, concerns_pretraining):
    """An encoder alone converts in spite of what concerns pretraining."""
    settings, state = settings_of(name)
    settings = changed(settings, changes)
    with pytest.raises(ValueError, match=missing):
        convert(settings, state)
    if concerns_pretraining:
        convert(settings, state, encoder_only=True)
    else:
        with pytest.raises(ValueError, match=missing):
            convert(settings, state, encoder_only=True)


def test_the_encoder_of_a_model_whose_decoder_is_missing(tmp_path):
    settings, _ = settings_of("image_cross_attention")
    changed(settings, {"decoder.add_positions_all": True})
    path = write(content("image_cross_attention", settings), tmp_path / "crossed.pt")
    with pytest.raises(ValueError, match=r"add_positions_all.*`encoder_only`"):
        convert_checkpoint(path)
    model = convert_checkpoint(path, encoder_only=True).build()
    reference = load_reference("image_cross_attention", FOLDER / "variants")
    batch = {key: value for key, value in reference.batch(0).items() if key != "mask"}
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state[:, 1:]
    assert type(model) is Data2VecModel
    assert torch.allclose(hidden, reference.expected(0)["features.x"], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_variant_converts_from_its_file(name, dtype, tmp_path):
    """The student in half precision, the teacher in float32, as mixed precision training writes them."""
    whole = content(name)
    whole["model"] = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in whole["model"].items()
    }
    converted = convert_checkpoint(write(whole, tmp_path / "source.pt"))
    model = converted.build()
    assert not [unused for unused in converted.unused if "fixed" not in unused.reason]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    teacher, actual = load_reference(name, FOLDER / "variants").model().teacher, model.teacher.state_dict()
    # A teacher that is a list of blocks has no final norm of its own.
    kept = {key: value for key, value in teacher.state_dict().items() if not key.startswith("encoder.norm.")}
    assert kept and all(torch.equal(value, actual[key]) for key, value in kept.items())


def test_a_fixed_scale_of_the_attention_bias_is_that_of_the_tensor(tmp_path):
    key = "modality_encoders.AUDIO.alibi_scale"
    _, state = settings_of("audio_group_norm")
    for scale, expected in ((torch.full_like(state[key], 0.25), 0.25), (torch.full_like(state[key], -1.0), 0.0)):
        settings, state = settings_of("audio_group_norm")
        whole = content("audio_group_norm", settings, **{key: scale, "_ema": state["_ema"] | {key: scale}})
        converted = convert_checkpoint(write(whole, tmp_path / "source.pt"))
        assert (converted.config.audio_config.alibi, converted.config.audio_config.alibi_scale) == ("fixed", expected)
        assert any("alibi_scale" in note for note in converted.notes)
    differing = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(state[key].shape)
    whole = content("audio_group_norm", None, **{key: differing, "_ema": state["_ema"] | {key: differing}})
    converted = convert_checkpoint(write(whole, tmp_path / "source.pt"))
    assert converted.config.audio_config.alibi == "learned"
    model = converted.build()
    assert torch.equal(model.data2vec.modality_encoders["audio"].attention_bias.scale.flatten(), differing.flatten())


@pytest.mark.parametrize("told", ["AUDIO", "Modality.AUDIO", None])
def test_the_modality_is_that_of_the_tensors(told):
    settings, state = settings_of("audio_pre_norm")
    settings["supported_modality"] = told
    settings["modalities"]["text"] = {"type": "TEXT"}
    config, _ = convert(settings, state)
    assert config.modalities == ["audio"]


def test_more_layers_to_average_than_there_are():
    settings, state = settings_of("audio_pre_norm")
    for told, expected in ((8, 2), (1, 1), (0, 2)):
        config, _ = convert(changed(settings, {"average_top_k_layers": told}), state)
        assert config.audio_config.average_top_k_layers == expected


def test_norms_of_targets_in_the_order_of_the_reference():
    settings, state = settings_of("audio_group_norm")
    config, _ = convert(changed(settings, {"batch_norm_target_layer": True}), state)
    assert config.audio_config.layer_target_norm == ["batch", "instance", "layer"]
    assert config.audio_config.mean_target_norm == ["layer", "instance"]


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "d2v2_audio_base",
        "d2v2_audio_perlayer_fp16",
        "d2v2_image_base",
        "d2v2_image_noprenet_fp16",
        "d2v2_text_alibi",
        "d2v2_text_base",
    ],
)
def test_every_file_of_the_second_version_is_verified_by_the_program(name, shared_dir, tmp_path):
    from d2v_train.programs.convert import run_program

    source = shared_dir / "reference" / "fairseq" / f"{name}.pt"
    summary = run_program([str(source), str(tmp_path / "out"), "--verify"])
    assert any(note.startswith("verified: ") for note in summary.notes)
    assert Data2VecModel.from_pretrained(tmp_path / "out").config.hidden_size in (32, 35, 36, 40, 48, 64)
