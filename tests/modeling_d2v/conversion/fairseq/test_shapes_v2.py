"""What the tensors of a 2.0 checkpoint tell."""

import pytest

from modeling_d2v.conversion.fairseq.layouts import shapes_of
from modeling_d2v.conversion.fairseq.shapes_v2 import ModelShapes
from tests.modeling_d2v.reference_fixtures import FOLDER, VARIANTS, load_reference


def shapes(name):
    return ModelShapes(shapes_of(load_reference(name, FOLDER / "variants").state))


def test_nothing_is_told_without_tensors():
    empty = ModelShapes({})
    values = {**vars(empty), **vars(empty.of_modality("audio"))}
    assert not any(value for name, value in values.items() if name not in ("convolutions", "shapes"))
    assert empty.modalities(["audio", "image", "text"]) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_those_of_the_settings(name):
    config = load_reference(name, FOLDER / "variants").record["config"]
    told, modality = shapes(name), name.split("_")[0]
    assert told.modalities(["audio", "image", "text"]) == [modality]
    assert (told.width, told.depth) == (config["embed_dim"], config["depth"])
    assert told.intermediate == int(config["embed_dim"] * config["mlp_ratio"])
    assert told.norm_affine == config["norm_affine"]
    assert told.pre_norm in ((None,) if not config["norm_affine"] else (config["layer_norm_first"],))
    own, section = told.of_modality(modality), config["modalities"][modality]
    assert own.prenet_depth == section["prenet_depth"] and own.extra_tokens == section["num_extra_tokens"]
    assert own.has_alibi == section["use_alibi_encoder"]
    assert own.decoder_layers == section["decoder"]["decoder_layers"]
    assert own.decoder_width == section["decoder"]["decoder_dim"]
    if modality == "audio":
        assert own.position_layers == section["conv_pos_depth"]
        assert own.position_kernel == max(3, section["conv_pos_width"] // section["conv_pos_depth"])
        assert own.position_groups(told.width) == section["conv_pos_groups"]
        assert own.position_norm == section["conv_pos_pre_ln"] and own.extractor_mode == section["extractor_mode"]
    if modality == "image":
        assert (own.patch_width, own.patch_size) == (section["embed_dim"], section["patch_size"])
        assert own.image_size == (section["input_size"] if section["fixed_positions"] else None)


def test_early_scales_have_four_dimensions():
    told = ModelShapes({"modality_encoders.AUDIO.alibi_scale": (1, 6, 1, 1)}).of_modality("audio")
    assert (told.has_alibi, told.scale_heads, told.scales_per_layer) == (True, 6, False)
