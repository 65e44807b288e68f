"""Conversion of reference checkpoints: nothing is lost, filled twice or misshapen without an error that says so."""

import pytest
import torch

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.conversion.fairseq.layouts import (
    FAIRSEQ_KINDS,
    config_from_fairseq,
    convert_state_dict,
    detect_kind,
    translate,
)
from modeling_d2v.conversion.tensors import Place, Unused, expected_shapes
from tests.modeling_d2v.reference_fixtures import V1, V2, WHOLE, load_reference


KINDS = {
    "d2v1_audio_base": "fairseq-v1-audio",
    "d2v1_text_base": "fairseq-v1-text",
    "d2v1_image_base": "fairseq-v1-vision",
} | dict.fromkeys(V2, "fairseq-v2")

UNUSED = {
    "d2v2_image_base": {
        "modality_encoders.IMAGE.fixed_positional_encoder.positions",
        "_ema.modality_encoders.IMAGE.fixed_positional_encoder.positions",
    },
    "d2v1_image_base": {
        "encoder.rel_pos_bias.relative_position_index",
        "_ema.rel_pos_bias.relative_position_index",
        "final_proj.weight",
        "final_proj.bias",
    },
    "d2v1_text_base": {"encoder.sentence_encoder.version", "_ema.version"},
    "d2v1_text_sinusoidal": {"encoder.sentence_encoder.version", "_ema.version"},
    # A teacher that owns its front end is a copy of the whole model.
    "d2v1_audio_groupnorm": {"_ema.mask_emb", "_ema.final_proj.weight", "_ema.final_proj.bias"},
    "d2v1_image_owner": {
        "encoder.rel_pos_bias.relative_position_index",
        "_ema.encoder.rel_pos_bias.relative_position_index",
        "final_proj.weight",
        "final_proj.bias",
        "_ema.mask_emb",
        "_ema.final_proj.weight",
        "_ema.final_proj.bias",
    },
}


def convert(reference, state=None, config=None, **options):
    config = config or reference.config()
    return convert_state_dict(reference.state if state is None else state, reference.kind, config, **options)


@pytest.mark.parametrize("name", V2 + V1)
def test_every_source_is_used_or_listed_and_every_target_filled(name):
    reference = load_reference(name)
    config = reference.config()
    conversion = convert(reference, config=config, step=7)
    assert {unused.name for unused in conversion.unused} == UNUSED.get(name, set())
    assert all(unused.reason for unused in conversion.unused)
    shapes = {key: tensor.shape for key, tensor in conversion.tensors.items()}
    assert shapes == expected_shapes(Data2VecForPreTraining, config)
    assert conversion.tensors["ema_step"].item() == 7


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_kind_is_told_by_the_names(name, kind):
    assert detect_kind(load_reference(name).state) == kind


def test_kind_falls_back_to_the_name_of_the_model():
    assert detect_kind(["encoder.layers.0.fc1.weight"], {"_name": "data2vec_audio"}) == "fairseq-v1-audio"
    with pytest.raises(ValueError, match="data2vec"):
        detect_kind(["bert.embeddings.weight"])


def test_query_key_and_value_are_stacked_in_this_order():
    reference = load_reference("d2v1_audio_base")
    state, tensors = reference.state, convert(reference).tensors
    for owner, source in (("data2vec", state), ("teacher", state["_ema"])):
        prefix = "encoder.layers.1.self_attn" if owner == "data2vec" else "layers.1.self_attn"
        for end in ("weight", "bias"):
            thirds = tensors[f"{owner}.encoder.blocks.1.attention.qkv.{end}"].chunk(3)
            for part, third in zip("qkv", thirds, strict=True):
                assert torch.equal(third, source[f"{prefix}.{part}_proj.{end}"])


def test_missing_key_bias_of_vision_v1_is_zero():
    reference = load_reference("d2v1_image_base")
    query, key, value = convert(reference).tensors["data2vec.encoder.blocks.2.attention.qkv.bias"].chunk(3)
    assert torch.equal(query, reference.state["encoder.blocks.2.attn.q_bias"])
    assert not key.any()
    assert torch.equal(value, reference.state["encoder.blocks.2.attn.v_bias"])


def test_four_dimensional_alibi_scale_of_early_checkpoints():
    reference = load_reference("d2v2_audio_base")
    state, name = reference.state, "modality_encoders.AUDIO.alibi_scale"
    state[name] = state[name].squeeze(0)
    scale = convert(reference, state).tensors["data2vec.modality_encoders.audio.attention_bias.scale"]
    assert torch.equal(scale, reference.state[name]) and scale.dim() == 5


def test_fixed_alibi_scale_goes_to_the_configuration():
    reference = load_reference("d2v2_audio_base")
    settings = dict(reference.record["config"]["modalities"]["audio"], learned_alibi_scale=False, alibi_scale=0.5)
    config = config_from_fairseq(
        reference.record["config"] | {"modalities": {"audio": settings}}, "fairseq-v2", vocab_size=None
    )
    assert config.audio_config.alibi == "fixed" and config.audio_config.alibi_scale == 0.5
    state, name = reference.state, "modality_encoders.AUDIO.alibi_scale"
    state[name] = state["_ema"][name] = torch.full_like(state[name], 0.5)
    unused = convert(reference, state, config).unused
    assert {entry.name for entry in unused} == {name, f"_ema.{name}"}
    state[name] = torch.full_like(state[name], 0.6)
    with pytest.raises(ValueError, match=r"alibi_scale.*attention_bias\.scale"):
        convert(reference, state, config)


def test_patch_embedding_of_another_width():
    reference = load_reference("d2v2_image_base")
    config = reference.config()
    config.vision_config.embed_dim = 24
    state, source = reference.state, "modality_encoders.IMAGE.local_encoder"
    for part in (state, state["_ema"]):
        weight, bias = part.pop(f"{source}.proj.weight"), part.pop(f"{source}.proj.bias")
        part |= {f"{source}.0.proj.weight": weight[:24], f"{source}.0.proj.bias": bias[:24]}
        part |= {f"{source}.1.weight": torch.ones(32, 24), f"{source}.1.bias": torch.ones(32)}
    tensors = convert(reference, state, config).tensors
    local = "modality_encoders.vision.local_encoder"
    assert tensors[f"data2vec.{local}.projection.weight"].shape == (24, 3, 16, 16)
    assert tensors[f"teacher.{local}.expand.weight"].shape == (32, 24)


def test_teacher_is_kept_apart_from_the_student():
    reference = load_reference("d2v2_text_base")
    tensors = convert(reference).tensors
    assert torch.equal(tensors["teacher.encoder.blocks.1.mlp.fc1.weight"], reference.tensors["ema.1.mlp.fc1.weight"])
    assert torch.equal(
        tensors["data2vec.encoder.blocks.1.mlp.fc1.weight"], reference.tensors["model.blocks.1.mlp.fc1.weight"]
    )


def test_a_checkpoint_without_teacher_needs_to_be_announced():
    reference = load_reference("d2v2_text_base")
    state = reference.state
    del state["_ema"]
    with pytest.raises(ValueError, match=r"teacher\.encoder\.blocks\.0"):
        convert(reference, state)
    tensors = convert(reference, state, optional=("teacher.",)).tensors
    assert not any(name.startswith("teacher.") for name in tensors)


def test_half_a_teacher_is_an_error_in_any_case():
    reference = load_reference("d2v2_text_base")
    state = reference.state
    del state["_ema"]["1.norm1.weight"]
    with pytest.raises(ValueError, match=r"teacher\.encoder\.blocks\.1\.norm1\.weight"):
        convert(reference, state, optional=("teacher.",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"blocks.0.extra.weight": torch.ones(2)}), r"blocks\.0\.extra"),
        (lambda s: s.pop("blocks.0.norm1.weight"), r"data2vec\.encoder\.blocks\.0\.norm1\.weight"),
        (lambda s: s.update({"blocks.0.norm1.weight": torch.ones(3)}), r"\(3,\).*\(32,\)"),
        (lambda s: s.update({"blocks.0.attention.qkv.bias": torch.ones(96)}), r"both fill"),
        (lambda s: s.update({"optimizer": {"lr": 1}}), "dict"),
    ],
)
def test_errors_name_the_tensor(change, message):
    reference = load_reference("d2v2_text_base")
    state = reference.state
    change(state)
    with pytest.raises(ValueError, match=message):
        convert(reference, state)


def test_missing_part_of_query_key_and_value_is_an_error():
    reference = load_reference("d2v1_text_base")
    state = reference.state
    del state["encoder.sentence_encoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match=r"qkv\.bias.*\['q'.*'v'\]"):
        convert(reference, state)


def test_old_names_of_text_v1():
    assert translate("decoder.sentence_encoder.emb_layer_norm.bias", "fairseq-v1-text") == Place(
        "data2vec.modality_encoders.text.local_encoder.layer_norm.bias"
    )
    assert translate("encoder.lm_head.2.weight", "fairseq-v1-text") == Place("decoders.text.projection.2.weight")
    assert isinstance(translate("version", "fairseq-v1-text", teacher=True), Unused)


def test_unknown_kind():
    with pytest.raises(ValueError, match="Known kinds: " + ", ".join(FAIRSEQ_KINDS)):
        config_from_fairseq({}, "fairseq-v3")


@pytest.mark.shared
@pytest.mark.parametrize("name", WHOLE)
def test_whole_checkpoint_files(name, shared_dir):
    """Files in the layout of the reference's trainer hold the weights and, for v2, settings of every modality."""
    reference = load_reference(name)
    path = shared_dir / "reference" / "fairseq" / f"{name}.pt"
    checkpoint = torch.load(path, weights_only=True)
    model, settings = checkpoint["model"], checkpoint["cfg"]["model"]
    kind = detect_kind(model, settings)
    vocabulary = [v.shape[0] for k, v in model.items() if k.endswith("embed_tokens.weight")]
    config = config_from_fairseq(
        settings, kind, task_config=checkpoint["cfg"]["task"], vocab_size=vocabulary[0] if vocabulary else None
    )
    tensors = convert_state_dict(model, kind, config).tensors
    expected = convert(reference).tensors
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensor.float(), expected[key].float()) for key, tensor in tensors.items())
