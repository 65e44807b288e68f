"""Settings of data2vec 1.0 in fairseq translated into the fields of a `Data2VecConfig`, by modality.

Sizes are read from the tensors where these tell them; where the settings say otherwise, a note names both.
"""

import re
from collections.abc import Mapping
from typing import Any

from modeling_d2v.conversion.fairseq.settings import (
    MONITORING,
    SCHEDULE,
    Settings,
    chosen_norms,
    conv_layers,
    target_fields,
    teacher_schedule,
    text_ids,
)
from modeling_d2v.presets import span_share


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
# Names of activations in fairseq, where they differ from those of transformers.
ACTIVATIONS = {"gelu_accurate": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh", "relu_squared": "relu2"}
_SPANS = "spans of one length are drawn, which may overlap"
_CHANNELS = "no channel is masked"
_MOST_MASKED = 0.99  # something stays visible


def convert_v1_audio(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    _check_audio_blocks(model)
    model.ignore("without effect on data2vec, whose prediction has the width of the model", "final_dim")
    model.ignore("created but never applied by the reference", "dropout_features")
    model.ignore("data2vec has no quantiser", "quantize_targets", "quantize_input", "target_glu", "same_quantizer")
    model.ignore("data2vec has no quantiser", "quantizer_depth", "quantizer_factor", "latent_temp")
    model.ignore("data2vec has no quantiser", "latent_vars", "latent_groups", "latent_dim")
    model.ignore("data2vec has no contrastive loss", "logit_temp", "num_negatives", "negatives_from_everywhere")
    model.ignore("data2vec has no contrastive loss", "cross_sample_negatives", "codebook_negatives")
    model.without(_SPANS, mask_selection="static", mask_other=0, no_mask_overlap=False, mask_dropout=0)
    model.without(_CHANNELS, mask_channel_prob=0)
    model.ignore("belongs to masks of channels", "mask_channel_length", "mask_channel_before")
    model.ignore("belongs to masks of channels", "mask_channel_selection", "mask_channel_other")
    model.ignore("belongs to masks of channels", "no_mask_channel_overlap", "mask_channel_min_space")
    model.ignore("belongs to spans that do not overlap", "mask_min_space")
    model.ignore("each sample is masked by its own length", "require_same_masks")
    model.ignore("padding added to reach a multiple is taken away again", "required_seq_len_multiple")
    model.ignore("without effect on data2vec", "crop_seq_to_multiple")
    model.ignore("belongs to another type of block", "depthwise_conv_kernel_size", "attn_type", "pos_enc_type")
    model.ignore("belongs to another type of block", "adp_num", "adp_dim", "adp_act_fn", "adp_trf_idx")
    model.ignore("the length is not limited", "max_positions")
    model.ignore(SCHEDULE, "max_update", "checkpoint_activations", "fp16")
    model.ignore(MONITORING, "min_target_var", "min_pred_var")

    width = model.measured("encoder_embed_dim", 768, _size(model, "mask_emb", -1))
    depth = model.measured("encoder_layers", 12, _count(model, r"encoder\.layers\.(\d+)\."))
    norm_first, dropout = model.get("layer_norm_first", False), model.get("dropout", 0.1)
    scope, copied = _audio_teacher(model)
    audio = V1_FIELDS | _targets(model, depth) | _audio_target_norms(model) | _convolutions(model) | _positions(model)
    audio |= _mask_share(model.number("mask_prob", 0.65), model.get("mask_length", 10)) | {
        "num_extra_tokens": 0,
        "context_norm": not norm_first,
        "prenet_dropout": dropout,
        "feat_proj_dropout": model.get("dropout_input", 0.0),
        "local_grad_scale": max(model.get("feature_grad_mult", 1.0), 0.0),
        "mask_sampler": "span",
        "mask_length": model.get("mask_length", 10),
        "decoder_projection_layers": 1,
        "ema_scope": scope,
        "ema_copied": copied,
    }
    if audio["loss_scale"] is not None and audio["loss_scale"] <= 0:
        model.notes.append(f"loss_scale={audio['loss_scale']}: cannot train, the default is used")
        audio["loss_scale"] = None
    if scope == "all":
        # The reference asks this teacher for all of its blocks.
        audio["average_top_k_layers"] = depth
    ffn = _size(model, "encoder.layers.0.fc1.weight", 0)
    return {
        "modalities": ["audio"],
        "audio_config": audio,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": model.get("encoder_attention_heads", 12),
        "intermediate_size": model.measured("encoder_ffn_embed_dim", 3072, ffn),
        "hidden_act": _activation(model.get("activation_fn", "gelu")),
        "layer_norm_eps": 1e-5,
        "norm_first": norm_first,
        "hidden_dropout": dropout,
        "mlp_dropout": dropout,
        "attention_dropout": model.get("attention_dropout", 0.1),
        "activation_dropout": model.get("activation_dropout", 0.0),
        "layerdrop": model.get("encoder_layerdrop", 0.0),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }


def _check_audio_blocks(model: Settings) -> None:
    kind = model.get("layer_type", "transformer")
    if kind == "trf_adp" and not any(".adapter" in name for name in model.shapes):
        kind = "transformer"  # adapters in none of the blocks
    missing = {
        "conformer": "its blocks have a convolution and two feed-forward parts, which this package does not have",
        "trf_adp": "its blocks have adapters, with which the reference cannot pretrain data2vec",
    }
    if kind != "transformer":
        raise ValueError(
            f"{model.where}.layer_type is {kind!r}, which cannot be converted: "
            f"{missing.get(kind, 'this package has transformer blocks only')}."
        )
    if model.get("pos_conv_depth", 1) < 2 and "encoder.pos_conv.1.0.weight" not in model.shapes:
        raise ValueError(
            f"{model.where}.pos_conv_depth is {model.get('pos_conv_depth', 1)}: positions are the single "
            "weight-normalised convolution of wav2vec 2.0, with which the reference cannot make a teacher. Here they "
            "are a stack of convolutions with norms (5 layers in the published models)."
        )


def _audio_teacher(model: Settings) -> tuple[str, list[str] | None]:
    """Return `ema_scope` and `ema_copied`."""
    layers_only = model.get("ema_layers_only", True)
    encoder_alone = model.get("ema_transformer_only", True) or layers_only
    if encoder_alone and _owns_front_end(model):
        encoder_alone = layers_only = False
        model.notes.append("ema_transformer_only=True: the teacher has a local encoder of its own, which is used")
    return "context" if encoder_alone else "all", ["position_encoder"] if layers_only else None


def _owns_front_end(model: Settings) -> bool:
    return any(name.startswith("_ema.encoder.") for name in model.shapes)


def _audio_target_norms(model: Settings) -> dict[str, Any]:
    """Return the norms of the targets.

    The reference keeps time in front of the samples unless a norm of the layers moves it: some norms then run over the
    samples of a batch where they would run over time.
    """
    batch, instance = model.get("batch_norm_target_layer", False), model.get("instance_norm_target_layer", False)
    samples_first = batch or instance
    return {
        "layer_target_norm": chosen_norms(
            model,
            batch_norm_target_layer="batch",
            instance_norm_target_layer="instance",
            group_norm_target_layer="group" if samples_first else "position",
            layer_norm_target_layer="layer",
        ),
        "mean_target_norm": chosen_norms(
            model, layer_norm_targets="layer", instance_norm_targets="instance" if samples_first else "sample"
        ),
    }


def _convolutions(model: Settings) -> dict[str, Any]:
    """Return the fields of the feature extractor; of strides the tensors tell nothing."""
    default = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    fields = conv_layers(model.get("conv_feature_layers", default))
    name = "feature_extractor.conv_layers.{}.0.weight"
    count = _count(model, r"feature_extractor\.conv_layers\.(\d+)\.")
    if count is not None:
        if count != len(fields["conv_stride"]):
            raise ValueError(
                f"{model.where}.conv_feature_layers describes {len(fields['conv_stride'])} convolutions, but the "
                f"checkpoint holds {count}: give the right ones in a JSON file (`settings`)."
            )
        shapes = [model.shapes[name.format(i)] for i in range(count)]
        found = {"conv_dim": [shape[0] for shape in shapes], "conv_kernel": [shape[2] for shape in shapes]}
        for field, values in found.items():
            if values != fields[field]:
                model.notes.append(f"{field}={fields[field]}: the tensors have {values}, which is used")
        fields |= found
    biased = "feature_extractor.conv_layers.0.0.bias" in model.shapes if model.shapes else None
    mode = None
    if model.shapes:
        mode = "layer_norm" if "feature_extractor.conv_layers.0.2.1.weight" in model.shapes else "default"
    mode = model.measured("extractor_mode", "default", mode)
    if mode not in ("default", "layer_norm"):
        raise ValueError(f"{model.where}.extractor_mode is {mode!r}; the reference has 'default' and 'layer_norm'.")
    return fields | {
        "conv_bias": model.measured("conv_bias", False, biased),
        "conv_norm": "layer" if mode == "layer_norm" else "group",
    }


def _positions(model: Settings) -> dict[str, Any]:
    """Return the fields of the position encoder."""
    depth = model.measured("pos_conv_depth", 1, _count(model, r"encoder\.pos_conv\.(\d+)\.0\."))
    width, groups = model.get("conv_pos", 128), model.get("conv_pos_groups", 16)
    weight = model.shapes.get("encoder.pos_conv.0.0.weight")
    if weight is not None:
        if weight[2] != max(3, width // depth):
            width = model.measured("conv_pos", 128, weight[2] * depth)
        groups = model.measured("conv_pos_groups", 16, weight[0] // weight[1])
    return {"conv_pos_depth": depth, "conv_pos_width": width, "conv_pos_groups": groups}


def _mask_share(prob: float, length: int = 1) -> dict[str, float]:
    """Return the share of masked tokens, of which the spans of the reference cover less, as they overlap."""
    return {"mask_prob": min(prob if length == 1 else span_share(min(prob, length), length), _MOST_MASKED)}


def convert_v1_text(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.ignore("concerns fine-tuned heads", "load_checkpoint_heads")
    transformer = model.section("transformer")
    transformer.ignore("without effect on an encoder", "adaptive_input", "char_inputs", "base_layers")
    transformer.ignore("without effect on an encoder", "base_sublayers", "base_shuffle")
    transformer.ignore("the model has no decoder of text", "decoder", "max_target_positions", "no_decoder_final_norm")
    transformer.ignore("the model has no decoder of text", "share_decoder_input_output_embed", "no_cross_attention")
    transformer.ignore("the model has no decoder of text", "share_all_embeddings", "merge_src_tgt_embed")
    transformer.ignore("the model has no decoder of text", "cross_self_attention", "adaptive_softmax_cutoff")
    transformer.ignore("the model has no decoder of text", "adaptive_softmax_dropout", "adaptive_softmax_factor")
    transformer.ignore("the model has no decoder of text", "tie_adaptive_weights", "tie_adaptive_proj")
    transformer.ignore(SCHEDULE, "checkpoint_activations", "offload_activations", "min_params_to_wrap", "export")
    quant_noise = transformer.section("quant_noise") if "quant_noise" in transformer.values else None
    if quant_noise:
        _check_quantisation(quant_noise, model)
    encoder = transformer.section("encoder")
    encoder.ignore("the checkpoint holds the layers that were kept", "layers_to_keep")
    encoder.require("attention of xFormers is not computed here", xformers_att_config=None)
    encoder.ignore("embeddings come with the weights", "embed_path")

    stem = "encoder.sentence_encoder."
    if f"decoder.{stem.partition('.')[2]}embed_tokens.weight" in model.shapes:
        stem = "decoder.sentence_encoder."
    width = encoder.measured("embed_dim", 512, _size(model, f"{stem}embed_tokens.weight", 1))
    depth = encoder.measured("layers", 6, _count(model, re.escape(stem) + r"layers\.(\d+)\."))
    ffn = encoder.measured("ffn_embed_dim", 2048, _size(model, f"{stem}layers.0.fc1.weight", 0))
    norm_first = encoder.measured("normalize_before", False, _has(model, stem, r"layer_norm\.weight$"))
    dropout = transformer.get("dropout", 0.1)
    text = V1_FIELDS | _targets(model, depth) | text_ids(vocab_size) | _embeddings(model, transformer, encoder, stem)
    text |= {
        "embedding_dropout": dropout,
        "num_extra_tokens": 0,
        "context_norm": False,
        "decoder_projection_layers": model.measured("head_layers", 1, _head_layers(model)),
        "decoder_projection_ratio": 2.0,
        # The teacher reads the tokens with its own embeddings.
        "ema_scope": "all",
        "ema_copied": _copied_embeddings(model, transformer, encoder),
    }
    text |= _text_mask(Settings(task, "task", model.notes))
    if (text["loss_scale"] or 0) <= 0:
        text["loss_scale"] = None
    fields = {
        "modalities": ["text"],
        "text_config": text,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": encoder.get("attention_heads", 8),
        "intermediate_size": ffn,
        "hidden_act": _activation(transformer.get("activation_fn", "relu")),
        "layer_norm_eps": 1e-5,
        "norm_first": norm_first,
        "hidden_dropout": dropout,
        "mlp_dropout": dropout,
        "attention_dropout": transformer.get("attention_dropout", 0.0),
        # An older name, which counts where the newer one is 0.
        "activation_dropout": transformer.get("activation_dropout", 0.0)
        or transformer.get("relu_dropout", 0.0)
        or 0.0,
        "layerdrop": encoder.get("layerdrop", 0.0),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }
    transformer.seen.add("relu_dropout")
    encoder.finish()
    transformer.finish()
    return fields


def _text_mask(task: Settings) -> dict[str, Any]:
    """Return the fields of the mask, which the program's task draws."""
    length = int(task.number("mask_multiple_length", 1))
    prob = task.number("mask_prob", 0.15)
    task.without("words are masked in parts", mask_whole_words=False)
    task.without("spans have one length", mask_stdev=0.0)
    task.without("random tokens are equally likely", freq_weighted_replacement=False)
    shares = {name: task.number(name, 0.1) for name in ("random_token_prob", "leave_unmasked_prob")}
    for name, share in shares.items():
        if share:
            task.notes.append(
                f"{name}={share}: such tokens are predicted as well here, not only those that are hidden"
            )
    return _mask_share(prob, length) | {
        "mask_sampler": "random" if length == 1 else "span",
        "mask_length": length,
        "mask_random_prob": shares["random_token_prob"],
        "mask_keep_prob": shares["leave_unmasked_prob"],
    }


def _check_quantisation(quant_noise: Settings, model: Settings) -> None:
    quant_noise.ignore("belongs to quantisation noise", "pq_block_size")
    quant_noise.without("weights are trained without quantisation noise", pq=0.0, scalar=0.0)
    quant_noise.finish()
    extra = next((name for name in model.shapes if name.endswith("sentence_encoder.quant_noise.weight")), None)
    if extra is not None:
        raise ValueError(
            f"The model was trained with quantisation noise ({quant_noise.where}.pq), for which the reference adds a "
            f"linear layer after the embeddings ({extra}); this package has none."
        )


def _embeddings(model: Settings, transformer: Settings, encoder: Settings, stem: str) -> dict[str, Any]:
    """Return the fields of the embeddings."""
    # Only learned positions have tensors.
    learned, absent = encoder.get("learned_pos", False), transformer.get("no_token_positional_embeddings", False)
    table = model.shapes.get(f"{stem}embed_positions.weight")
    kind = "none" if absent else "learned" if learned else "sinusoidal"
    if model.shapes and (kind == "learned") != (table is not None):
        kind = "learned" if table is not None else "sinusoidal"
        model.notes.append(f"learned_pos={learned}: the tensors have {kind} positions, which are used")
    limit = model.get("max_positions", 512)
    model.ignore("given by max_source_positions of the transformer", "max_positions")
    rows = None if table is None else table[0] - 2  # one for each position below the first, and for padding
    normed = transformer.measured(
        "layernorm_embedding", False, _has(model, stem, r"(layernorm_embedding|emb_layer_norm)")
    )
    return {
        "max_position_embeddings": transformer.measured("max_source_positions", limit, rows) or limit,
        "position_embedding": kind,
        "scale_embedding": not transformer.get("no_scale_embedding", False),
        "embedding_norm": normed,
    }


def _copied_embeddings(model: Settings, transformer: Settings, encoder: Settings) -> list[str] | None:
    """Return `ema_copied`: the reference skips the token table only where the positions have one too."""
    if not model.get("ema_transformer_layers_only", True):
        return None
    if encoder.get("learned_pos", False):
        return ["local_encoder"]
    return ["local_encoder.layer_norm"]


def _head_layers(model: Settings) -> int | None:
    numbers = {
        found[1] for name in model.shapes if (found := re.search(r"\.(?:regression_head|lm_head)\.(\d+)\.w", name))
    }
    return len(numbers) or None


def convert_v1_vision(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.require("the reference stops with an error at a bias for each layer", shared_rel_pos_bias=True)
    model.ignore("blocks of patches have one size, 16", "min_mask_patches_per_block", "max_mask_patches_per_block")

    stem = "patch_embed.conv.weight"
    width = model.measured("embed_dim", 768, _size(model, stem, 0))
    depth = model.measured("depth", 12, _count(model, r"encoder\.blocks\.(\d+)\."))
    patch_size = model.measured("patch_size", 16, _size(model, stem, -1))
    table = model.shapes.get("encoder.rel_pos_bias.relative_position_bias_table")
    window = model.get("image_size", 224) // patch_size
    if table is not None and table[0] != (2 * window - 1) ** 2 + 3:
        window = (round((table[0] - 3) ** 0.5) + 1) // 2
        model.measured("image_size", 224, window * patch_size)
    # The reference's blocks always have four times the width: `mlp_ratio` is not read.
    ffn = _size(model, "encoder.blocks.0.mlp.0.weight", 0) or 4 * width
    if ffn != int(width * model.get("mlp_ratio", 4)):
        model.notes.append(
            f"mlp_ratio={model.get('mlp_ratio', 4)}: ignored by the reference, the tensors have {ffn / width:g}"
        )
    scaled = "encoder.blocks.0.gamma_1" in model.shapes if model.shapes else None
    scale = model.get("layer_scale_init_value", 1e-4)
    scale = (scale if scale > 0 else 1e-4) if (scale > 0 if scaled is None else scaled) else None
    whole = not model.measured("ema_transformer_only", True, False if _owns_front_end(model) else None)
    targets = _targets(model, depth)
    unscaled = targets["loss_scale"] is not None and targets["loss_scale"] <= 0
    vision = V1_FIELDS | targets | _mask_share(model.get("num_mask_patches", 75) / window**2)
    vision |= {
        "end_of_block_targets": model.get("end_of_block_targets", True),
        "scaled_targets": scale is not None and not model.get("end_of_block_targets", True),
        # The reference takes the sum as it is unless the scale is positive.
        "loss_scale": 1.0 if unscaled else targets["loss_scale"],
        "image_size": window * patch_size,
        "patch_size": patch_size,
        "num_channels": model.measured("in_channels", 3, _size(model, stem, 1)),
        "position_embedding": "none",
        "relative_position_bias": True,
        "num_extra_tokens": 1,
        "context_norm": False,
        "mask_sampler": "block",
        "mask_length": 4,
        # The output of the encoder is the prediction: `final_proj` is created but never applied.
        "decoder_projection_layers": 0,
        # A teacher without a front end reads the student's patches and class token, as if it copied them.
        "ema_scope": "all" if whole else "context",
        "ema_copied": None if whole else ["extra_tokens"],
    }
    heads = model.measured("num_heads", 12, None if table is None else table[1])
    if width % heads:
        raise ValueError(
            f"The model has {heads} heads of {width // heads} channels, {width // heads * heads} in all, and a width "
            f"of {width}; here the heads share the whole width."
        )
    return {
        "modalities": ["vision"],
        "vision_config": vision,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "layer_norm_eps": 1e-5,
        "norm_first": True,
        "layer_scale_init_value": scale,
        "hidden_dropout": 0.0,
        "mlp_dropout": 0.0,
        "attention_dropout": model.get("attention_dropout", 0.0),
        "activation_dropout": 0.0,
        "drop_path_rate": model.get("drop_path", 0.1),
        "masked_tokens": "replaced",
        **teacher_schedule(model),
    }


def _targets(model: Settings, depth: int) -> dict[str, Any]:
    """Return the fields of targets and loss; more layers than there are, or 0, stand for all of them."""
    fields = target_fields(model)
    wanted = fields["average_top_k_layers"]
    return fields | {"average_top_k_layers": min(wanted, depth) if wanted > 0 else depth}


def _activation(name: str) -> str:
    return ACTIVATIONS.get(name, name)


def _size(model: Settings, name: str, dim: int) -> int | None:
    """Return a size of a tensor, `None` if it is unknown."""
    return model.shapes[name][dim] if name in model.shapes else None


def _count(model: Settings, pattern: str) -> int | None:
    """Return one more than the greatest number in the names that begin with `pattern`, `None` if they are unknown."""
    numbers = [int(found[1]) for name in model.shapes if (found := re.match(pattern, name))]
    return max(numbers) + 1 if numbers else None


def _has(model: Settings, stem: str, pattern: str) -> bool | None:
    """Return whether there is a tensor whose name is `stem` and `pattern`, `None` if names are unknown."""
    return any(re.match(re.escape(stem) + pattern, name) for name in model.shapes) if model.shapes else None
