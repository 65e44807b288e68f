"""Speech models of transformers (data2vec-audio): their settings as ours, and where each tensor goes.

They are data2vec 1.0. In the converted model padding does not reach the samples; with `fairseq_compatible_padding` the
outputs of padded batches are those of transformers.
"""

from collections.abc import Mapping
from typing import Any

from modeling_d2v.conversion.tensors import NameTable, Place, Unused, rename
from modeling_d2v.presets import get_preset


_FRONT = "data2vec.modality_encoders.audio."

# Names in transformers and here.
NAMES: NameTable = (
    ("data2vec_audio.masked_spec_embed", f"{_FRONT}mask_token"),
    ("data2vec_audio.feature_extractor.conv_layers.*.conv.*", f"{_FRONT}local_encoder.conv_layers.*.conv.*"),
    (
        "data2vec_audio.feature_extractor.conv_layers.*.layer_norm.*",
        f"{_FRONT}local_encoder.conv_layers.*.layer_norm.*",
    ),
    ("data2vec_audio.feature_projection.layer_norm.*", f"{_FRONT}local_encoder.layer_norm.*"),
    ("data2vec_audio.feature_projection.projection.*", f"{_FRONT}local_encoder.projection.*"),
    ("data2vec_audio.encoder.pos_conv_embed.layers.*.conv.*", f"{_FRONT}position_encoder.convs.*.*"),
    ("data2vec_audio.encoder.layer_norm.*", f"{_FRONT}context_norm.*"),
    ("data2vec_audio.encoder.layers.*.attention.q_proj.*", "data2vec.encoder.blocks.*.attention.qkv.*#q"),
    ("data2vec_audio.encoder.layers.*.attention.k_proj.*", "data2vec.encoder.blocks.*.attention.qkv.*#k"),
    ("data2vec_audio.encoder.layers.*.attention.v_proj.*", "data2vec.encoder.blocks.*.attention.qkv.*#v"),
    ("data2vec_audio.encoder.layers.*.attention.out_proj.*", "data2vec.encoder.blocks.*.attention.projection.*"),
    ("data2vec_audio.encoder.layers.*.layer_norm.*", "data2vec.encoder.blocks.*.norm1.*"),
    ("data2vec_audio.encoder.layers.*.feed_forward.intermediate_dense.*", "data2vec.encoder.blocks.*.mlp.fc1.*"),
    ("data2vec_audio.encoder.layers.*.feed_forward.output_dense.*", "data2vec.encoder.blocks.*.mlp.fc2.*"),
    ("data2vec_audio.encoder.layers.*.final_layer_norm.*", "data2vec.encoder.blocks.*.norm2.*"),
    ("layer_weights", "layer_sum.weights"),
    ("lm_head.*", "lm_head.*"),
    ("projector.*", "projector.*"),
    ("classifier.*", "classifier.*"),
    ("tdnn.*.kernel.*", "tdnn.*.kernel.*"),
    ("feature_extractor.*", "feature_extractor.*"),
    ("objective.weight", "objective.weight"),
)

# Fields of `Data2VecAudioConfig` with the same name and meaning in transformers.
SAME = (
    "conv_dim conv_kernel conv_stride conv_bias vocab_size feat_proj_dropout final_dropout mask_time_prob "
    "mask_time_length mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks "
    "ctc_loss_reduction ctc_zero_infinity use_weighted_layer_sum classifier_proj_size tdnn_dim tdnn_kernel "
    "tdnn_dilation xvector_output_dim"
).split()


def settings(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Data2VecConfig` for a whole configuration of data2vec-audio, defaults included.

    Settings that transformers lacks (mask of pretraining, targets, teacher) are those of the published base model of
    data2vec 1.0.

    Raises:
        ValueError: The model has an adapter, another activation than GELU in the front end, a position kernel below 3,
            or no position layers.
    """
    if source["add_adapter"]:
        raise ValueError(
            "This data2vec-audio model has an adapter (`add_adapter` is set): convolutions after the blocks, which "
            "shorten the sequence for a text decoder. They have no counterpart here."
        )
    if source["feat_extract_activation"] != "gelu":
        raise ValueError(
            f"This data2vec-audio model has `feat_extract_activation={source['feat_extract_activation']!r}`; here the "
            'convolutions of the front end and of the positions are always followed by exact "gelu".'
        )
    kernel, depth = source["conv_pos_kernel_size"], source["num_conv_pos_embeddings"]
    if kernel < 3:
        raise ValueError(
            f"This data2vec-audio model has `conv_pos_kernel_size={kernel}`; here position kernels have at least 3."
        )
    if not depth:
        raise ValueError(
            "This data2vec-audio model has `num_conv_pos_embeddings=0`, with which transformers adds the features to "
            "themselves; here a model without position layers adds nothing."
        )
    fields = get_preset("audio-base-v1")
    layers, dropout = source["num_hidden_layers"], source["hidden_dropout"]
    fields["audio_config"] |= {name: source[name] for name in SAME} | {
        "pad_token_id": source["pad_token_id"] or 0,
        "apply_spec_augment": source.get("apply_spec_augment", True),
        "conv_pos_depth": depth,
        "conv_pos_width": depth * kernel,
        "conv_pos_groups": source["num_conv_pos_embedding_groups"],
        "local_norm_eps": source["layer_norm_eps"],
        "prenet_dropout": dropout,
        "average_top_k_layers": min(fields["audio_config"]["average_top_k_layers"], layers),
    }
    return fields | {
        "hidden_size": source["hidden_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": source["num_attention_heads"],
        "intermediate_size": source["intermediate_size"],
        "hidden_act": source["hidden_act"],
        "layer_norm_eps": source["layer_norm_eps"],
        "hidden_dropout": dropout,
        "mlp_dropout": dropout,
        "attention_dropout": source["attention_dropout"],
        "activation_dropout": source["activation_dropout"],
        "layerdrop": source["layerdrop"],
        "initializer_range": source["initializer_range"],
    }


def place(name: str) -> Place | Unused:
    """Return where a tensor of a data2vec-audio model with a head goes; an unknown name stays as it is."""
    target, _, part = (rename(name, NAMES) or name).partition("#")
    return Place(target, part or None)
