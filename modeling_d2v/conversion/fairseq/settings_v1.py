"""Settings of data2vec 1.0 in fairseq translated into the fields of a `Data2VecConfig`, by modality."""

from collections.abc import Mapping
from typing import Any

from modeling_d2v.conversion.fairseq.settings import (
    MONITORING,
    SCHEDULE,
    Settings,
    conv_layers,
    target_fields,
    teacher_schedule,
    text_ids,
)


# Version 1.0 has one mask per sample, replaces masked tokens instead of dropping them, predicts with linear layers.
V1_FIELDS = {
    "num_masks": 1,
    "mask_prob_adjust": 0.0,
    "prenet_depth": 0,
    "prenet_dropout": 0.0,
    "prenet_layerdrop": 0.0,
    "alibi": None,
    "decoder_layers": 0,
    "decoder_input_dropout": 0.0,
    "cls_loss_weight": 0.0,
}


def convert_v1_audio(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.require("the convolutions have layer norm", extractor_mode="layer_norm")
    model.require("blocks are plain transformer blocks", layer_type="transformer", attn_type="", adp_num=-1)
    model.require("positions are convolutional", pos_enc_type="abs")
    model.require("the prediction has the width of the model", final_dim=0)
    model.require("data2vec has no quantiser", quantize_targets=False, quantize_input=False, target_glu=False)
    model.require("no published model uses it", dropout_input=0.0, dropout_features=0.0, feature_grad_mult=1.0)
    model.require("no published model uses it", mask_dropout=0.0, mask_channel_prob=0.0, no_mask_overlap=False)
    model.require("spans have one length", mask_selection="static", mask_other=0.0)
    model.require("no published model uses it", group_norm_target_layer=False)
    if model.get("pos_conv_depth", 1) < 2:
        raise ValueError(
            f"{model.where}.pos_conv_depth is {model.get('pos_conv_depth', 1)}: the single weight-normalised position "
            "convolution of wav2vec 2.0 cannot be converted, only the stack of data2vec (5 layers)."
        )
    model.ignore("data2vec has no quantiser", "same_quantizer", "quantizer_depth", "quantizer_factor")
    model.ignore("data2vec has no quantiser", "latent_vars", "latent_groups", "latent_dim", "latent_temp")
    model.ignore("data2vec has no contrastive loss", "logit_temp", "num_negatives", "negatives_from_everywhere")
    model.ignore("data2vec has no contrastive loss", "cross_sample_negatives", "codebook_negatives")
    model.ignore("without effect, no channel is masked", "mask_channel_length", "mask_channel_before")
    model.ignore("without effect, no channel is masked", "mask_channel_selection", "mask_channel_other")
    model.ignore("without effect, no channel is masked", "no_mask_channel_overlap", "mask_channel_min_space")
    model.ignore("without effect, masks may overlap", "mask_min_space")
    model.ignore("each sample is masked by its own length", "require_same_masks")
    model.ignore("padding added to reach a multiple is taken away again", "required_seq_len_multiple")
    model.ignore("padding added to reach a multiple is taken away again", "crop_seq_to_multiple")
    model.ignore(
        "belongs to another type of block", "depthwise_conv_kernel_size", "adp_dim", "adp_act_fn", "adp_trf_idx"
    )
    model.ignore("the length is not limited", "max_positions")
    model.ignore(SCHEDULE, "max_update", "checkpoint_activations", "fp16")
    model.ignore(MONITORING, "min_target_var", "min_pred_var")

    width, dropout = model.get("encoder_embed_dim", 768), model.get("dropout", 0.1)
    model.require("the published models are post-norm", layer_norm_first=False)
    transformer_only = model.get("ema_transformer_only", True)
    audio = (
        V1_FIELDS
        | target_fields(model)
        | conv_layers(model.get("conv_feature_layers"))
        | {
            "conv_bias": model.get("conv_bias", False),
            "conv_pos_depth": model.get("pos_conv_depth"),
            "conv_pos_width": model.get("conv_pos", 128),
            "conv_pos_groups": model.get("conv_pos_groups", 16),
            "num_extra_tokens": 0,
            "context_norm": True,
            "prenet_dropout": dropout,
            "mask_sampler": "span",
            "mask_prob": model.get("mask_prob", 0.65),
            "mask_length": model.get("mask_length", 10),
            "decoder_projection_layers": 1,
            "ema_scope": "context" if transformer_only else "all",
            "ema_copied": ["position_encoder"] if model.get("ema_layers_only", False) and transformer_only else None,
        }
    )
    return {
        "modalities": ["audio"],
        "audio_config": audio,
        "hidden_size": width,
        "num_hidden_layers": model.get("encoder_layers", 12),
        "num_attention_heads": model.get("encoder_attention_heads", 12),
        "intermediate_size": model.get("encoder_ffn_embed_dim", 3072),
        "hidden_act": model.get("activation_fn", "gelu"),
        "layer_norm_eps": 1e-5,
        "norm_first": False,
        "hidden_dropout": dropout,
        "mlp_dropout": dropout,
        "attention_dropout": model.get("attention_dropout", 0.1),
        "activation_dropout": model.get("activation_dropout", 0.0),
        "layerdrop": model.get("encoder_layerdrop", 0.0),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }


def convert_v1_text(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.ignore("concerns fine-tuned heads", "load_checkpoint_heads")
    transformer = model.section("transformer")
    transformer.require("no published model uses it", adaptive_input=False, char_inputs=False, base_layers=0)
    transformer.require("no published model uses it", no_token_positional_embeddings=False, relu_dropout=0.0)
    transformer.require("embeddings are normalised, and not scaled", layernorm_embedding=True, no_scale_embedding=True)
    transformer.ignore("the model has no decoder of text", "decoder", "max_target_positions", "no_decoder_final_norm")
    transformer.ignore("the model has no decoder of text", "share_decoder_input_output_embed", "no_cross_attention")
    transformer.ignore("the model has no decoder of text", "share_all_embeddings", "merge_src_tgt_embed")
    transformer.ignore("the model has no decoder of text", "cross_self_attention", "adaptive_softmax_cutoff")
    transformer.ignore("the model has no decoder of text", "adaptive_softmax_dropout", "adaptive_softmax_factor")
    transformer.ignore("the model has no decoder of text", "tie_adaptive_weights", "tie_adaptive_proj")
    transformer.ignore(SCHEDULE, "checkpoint_activations", "offload_activations", "min_params_to_wrap", "export")
    transformer.ignore("without effect, there are no base layers", "base_sublayers", "base_shuffle")
    quant_noise = transformer.section("quant_noise") if "quant_noise" in transformer.values else None
    if quant_noise:
        quant_noise.require("weights are not quantised", pq=0.0, scalar=0.0)
        quant_noise.ignore("weights are not quantised", "pq_block_size")
        quant_noise.finish()
    encoder = transformer.section("encoder")
    encoder.require("positions are a learned table", learned_pos=True)
    encoder.require("the published models are post-norm", normalize_before=False)
    encoder.require("no published model uses it", layers_to_keep=None, xformers_att_config=None)
    encoder.ignore("embeddings come with the weights", "embed_path")

    dropout = transformer.get("dropout", 0.1)
    positions = transformer.get("max_source_positions") or model.get("max_positions", 512)
    model.ignore("given by max_source_positions of the transformer", "max_positions")
    text = (
        V1_FIELDS
        | target_fields(model)
        | text_ids(vocab_size)
        | {
            "max_position_embeddings": positions,
            "embedding_dropout": dropout,
            "num_extra_tokens": 0,
            "context_norm": False,
            "mask_sampler": "random",
            "mask_prob": task.get("mask_prob", 0.15),
            "mask_length": 1,
            "mask_random_prob": task.get("random_token_prob", 0.1),
            "mask_keep_prob": task.get("leave_unmasked_prob", 0.1),
            "decoder_projection_layers": model.get("head_layers", 1),
            "decoder_projection_ratio": 2.0,
            # The teacher reads the tokens with its own embeddings.
            "ema_scope": "all",
            "ema_copied": ["local_encoder"] if model.get("ema_transformer_layers_only", True) else None,
        }
    )
    fields = {
        "modalities": ["text"],
        "text_config": text,
        "hidden_size": encoder.get("embed_dim", 512),
        "num_hidden_layers": encoder.get("layers", 6),
        "num_attention_heads": encoder.get("attention_heads", 8),
        "intermediate_size": encoder.get("ffn_embed_dim", 2048),
        "hidden_act": transformer.get("activation_fn", "relu"),
        "layer_norm_eps": 1e-5,
        "norm_first": False,
        "hidden_dropout": dropout,
        "mlp_dropout": dropout,
        "attention_dropout": transformer.get("attention_dropout", 0.0),
        "activation_dropout": transformer.get("activation_dropout", 0.0),
        "layerdrop": encoder.get("layerdrop", 0.0),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }
    encoder.finish()
    transformer.finish()
    return fields


def convert_v1_vision(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.require("the relative position bias is shared by the layers", shared_rel_pos_bias=True)
    model.require("the teacher covers the transformer", ema_transformer_only=True)
    model.ignore("blocks have one size", "min_mask_patches_per_block", "max_mask_patches_per_block")

    image_size, patch_size = model.get("image_size", 224), model.get("patch_size", 16)
    patches = (image_size // patch_size) ** 2
    vision = (
        V1_FIELDS
        | target_fields(model)
        | {
            "image_size": image_size,
            "patch_size": patch_size,
            "num_channels": model.get("in_channels", 3),
            "position_embedding": "none",
            "relative_position_bias": True,
            "num_extra_tokens": 1,
            "context_norm": False,
            "mask_sampler": "block",
            "mask_prob": model.get("num_mask_patches", 120) / patches,
            "mask_length": 4,
            # The output of the encoder is the prediction: `final_proj` is created but never applied.
            "decoder_projection_layers": 0,
            # The teacher uses patches and class token of the student, which is the same as copying them.
            "ema_scope": "context",
            "ema_copied": ["extra_tokens"],
        }
    )
    width = model.get("embed_dim", 768)
    return {
        "modalities": ["vision"],
        "vision_config": vision,
        "hidden_size": width,
        "num_hidden_layers": model.get("depth", 12),
        "num_attention_heads": model.get("num_heads", 12),
        "intermediate_size": int(width * model.get("mlp_ratio", 4)),
        "layer_norm_eps": 1e-5,
        "norm_first": True,
        "layer_scale_init_value": model.get("layer_scale_init_value", 1e-4),
        "hidden_dropout": 0.0,
        "mlp_dropout": 0.0,
        "attention_dropout": model.get("attention_dropout", 0.0),
        "activation_dropout": 0.0,
        "drop_path_rate": model.get("drop_path", 0.0),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }
