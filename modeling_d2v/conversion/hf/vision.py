"""Image models of transformers (data2vec-vision): their settings as ours, and where each tensor goes.

Their attention has no bias of keys, which changes nothing: it adds the same number to all scores of a query.
"""

from collections.abc import Mapping
from typing import Any

from modeling_d2v.conversion.tensors import NameTable, Place, Unused, rename
from modeling_d2v.presets import get_preset


# Names in transformers and here.
NAMES: NameTable = (
    ("data2vec_vision.embeddings.cls_token", "data2vec.modality_encoders.vision.extra_tokens"),
    ("data2vec_vision.embeddings.mask_token", "data2vec.modality_encoders.vision.mask_token"),
    (
        "data2vec_vision.embeddings.patch_embeddings.projection.*",
        "data2vec.modality_encoders.vision.local_encoder.projection.*",
    ),
    (
        "data2vec_vision.encoder.relative_position_bias.relative_position_bias_table",
        "data2vec.modality_encoders.vision.attention_bias.table",
    ),
    (
        "data2vec_vision.encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table",
        "data2vec.modality_encoders.vision.attention_bias.table#*",
    ),
    ("data2vec_vision.encoder.layer.*.attention.attention.query.*", "data2vec.encoder.blocks.*.attention.qkv.*#q"),
    ("data2vec_vision.encoder.layer.*.attention.attention.key.*", "data2vec.encoder.blocks.*.attention.qkv.*#k"),
    ("data2vec_vision.encoder.layer.*.attention.attention.value.*", "data2vec.encoder.blocks.*.attention.qkv.*#v"),
    ("data2vec_vision.encoder.layer.*.attention.output.dense.*", "data2vec.encoder.blocks.*.attention.projection.*"),
    ("data2vec_vision.encoder.layer.*.intermediate.dense.*", "data2vec.encoder.blocks.*.mlp.fc1.*"),
    ("data2vec_vision.encoder.layer.*.output.dense.*", "data2vec.encoder.blocks.*.mlp.fc2.*"),
    ("data2vec_vision.encoder.layer.*.layernorm_before.*", "data2vec.encoder.blocks.*.norm1.*"),
    ("data2vec_vision.encoder.layer.*.layernorm_after.*", "data2vec.encoder.blocks.*.norm2.*"),
    ("data2vec_vision.encoder.layer.*.lambda_1", "data2vec.encoder.blocks.*.layer_scale1"),
    ("data2vec_vision.encoder.layer.*.lambda_2", "data2vec.encoder.blocks.*.layer_scale2"),
    ("data2vec_vision.layernorm.*", "data2vec.encoder.norm.*"),
    ("data2vec_vision.pooler.layernorm.*", "fc_norm.*"),
    ("fpn1.*.*", "pyramid.levels.0.*.*"),
    ("fpn2.*.*", "pyramid.levels.1.*.*"),
    ("decode_head.psp_modules.blocks.*.conv.convolution.*", "decode_head.pooling.convs.*.conv.*"),
    ("decode_head.psp_modules.blocks.*.conv.normalization.*", "decode_head.pooling.convs.*.norm.*"),
    ("decode_head.psp_bottleneck.convolution.*", "decode_head.pooling.bottleneck.conv.*"),
    ("decode_head.psp_bottleneck.normalization.*", "decode_head.pooling.bottleneck.norm.*"),
    ("decode_head.lateral_convs.*.convolution.*", "decode_head.lateral_convs.*.conv.*"),
    ("decode_head.lateral_convs.*.normalization.*", "decode_head.lateral_convs.*.norm.*"),
    ("decode_head.fpn_convs.*.convolution.*", "decode_head.output_convs.*.conv.*"),
    ("decode_head.fpn_convs.*.normalization.*", "decode_head.output_convs.*.norm.*"),
    ("decode_head.fpn_bottleneck.convolution.*", "decode_head.bottleneck.conv.*"),
    ("decode_head.fpn_bottleneck.normalization.*", "decode_head.bottleneck.norm.*"),
    ("decode_head.classifier.*", "decode_head.classifier.*"),
    ("auxiliary_head.convs.*.convolution.*", "auxiliary_head.convs.*.conv.*"),
    ("auxiliary_head.convs.*.normalization.*", "auxiliary_head.convs.*.norm.*"),
    ("auxiliary_head.conv_cat.convolution.*", "auxiliary_head.joint_conv.conv.*"),
    ("auxiliary_head.conv_cat.normalization.*", "auxiliary_head.joint_conv.norm.*"),
    ("auxiliary_head.classifier.*", "auxiliary_head.classifier.*"),
    ("classifier.*", "classifier.*"),
)

SPARE = {
    "data2vec_vision.layernorm.": "segmentation reads the blocks, before the final norm",
    "data2vec_vision.pooler.": "only the head for classification reads the pooler",
}
# Fine-tuning settings that have the same name in both.
SAME = (
    "use_mean_pooling",
    "pool_scales",
    "use_auxiliary_head",
    "auxiliary_loss_weight",
    "auxiliary_channels",
    "auxiliary_num_convs",
    "auxiliary_concat_input",
    "semantic_loss_ignore_index",
)


def settings(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Data2VecConfig` for a whole configuration of data2vec-vision, defaults included.

    Settings that transformers lacks (mask, targets, teacher) are those of the published image model of data2vec 1.0.
    Its models have no mask token unless `use_mask_token` is set; ours have one, which is then initialised randomly.

    Raises:
        ValueError: The model has absolute positions, two kinds of relative ones, or unequal sides.
    """
    if source["use_absolute_position_embeddings"]:
        raise ValueError(
            "This data2vec-vision model has learned absolute position embeddings (`use_absolute_position_embeddings`)."
            " No published data2vec model has them, and they have no counterpart here."
        )
    shared, per_layer = source["use_shared_relative_position_bias"], source["use_relative_position_bias"]
    if shared and per_layer:
        raise ValueError(
            "This data2vec-vision model adds a relative position bias that all layers share and one per layer "
            "(`use_shared_relative_position_bias` and `use_relative_position_bias`); here it can be either."
        )
    fields = get_preset("vision-base-v1")
    vision, layers = fields["vision_config"], source["num_hidden_layers"]
    vision |= {
        "image_size": _side(source, "image_size"),
        "patch_size": _side(source, "patch_size"),
        "num_channels": source["num_channels"],
        "relative_position_bias": shared or per_layer,
        "relative_position_bias_per_layer": per_layer,
        "prenet_dropout": source["hidden_dropout_prob"],
        "average_top_k_layers": min(vision["average_top_k_layers"], layers),
        "classifier_dropout": 0.0,
        **{name: source[name] for name in SAME},
    }
    scale = source["layer_scale_init_value"]
    return fields | {
        "hidden_size": source["hidden_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": source["num_attention_heads"],
        "intermediate_size": source["intermediate_size"],
        "hidden_act": source["hidden_act"],
        "layer_norm_eps": source["layer_norm_eps"],
        "final_norm": not source["use_mean_pooling"],
        "layer_scale_init_value": scale if scale > 0 else None,
        "hidden_dropout": source["hidden_dropout_prob"],
        "mlp_dropout": source["hidden_dropout_prob"],
        "attention_dropout": source["attention_probs_dropout_prob"],
        "activation_dropout": 0.0,
        "drop_path_rate": source["drop_path_rate"],
        "initializer_range": source["initializer_range"],
        "out_indices": _levels(source["out_indices"], layers),
    }


def _side(source: Mapping[str, Any], field: str) -> int:
    sides = source[field] if isinstance(source[field], list | tuple) else [source[field]]
    if len(set(sides)) > 1:
        raise ValueError(f"`{field}` of this data2vec-vision model is {sides}; here both sides must be equal.")
    return sides[0]


def _levels(out_indices: list[int], layers: int) -> list[int] | None:
    """Return the encoder levels that their segmentation reads: their number i is our level i - 1.

    Their default suits 12 layers. Smaller models that are not for segmentation also have it; here it would be an
    error, and is left out.
    """
    levels = sorted(i - 1 for i in out_indices)
    return levels if len(set(levels)) == len(levels) and 0 <= levels[0] and levels[-1] <= layers else None


def place(name: str) -> Place | Unused:
    """Return where a tensor of a data2vec-vision model with a head goes; an unknown name stays as it is."""
    if name.endswith(".relative_position_index"):
        return Unused(name, "follows from the size of the window, recomputed")
    target, _, part = (rename(name, NAMES) or name).partition("#")
    reason = next((reason for prefix, reason in SPARE.items() if name.startswith(prefix)), None)
    return Place(target, part or None, reason)
