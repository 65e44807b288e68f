"""Settings of data2vec 2.0 in fairseq (`data2vec_multi`) translated into the fields of a `Data2VecConfig`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modeling_d2v.conversion.fairseq.settings import (
    MONITORING,
    SCHEDULE,
    Settings,
    conv_layers,
    target_fields,
    teacher_schedule,
    text_ids,
)
from modeling_d2v.modalities import MODALITIES


def convert_v2(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.require("the blocks have no norms without weights", norm_affine=True)
    model.require("no published model uses it", shared_decoder=None, recon_loss=0.0, dropout_input=0.0, skip_ema=False)
    model.require("use another learning rate instead", d2v_loss=1.0)
    model.require("the rate of a block grows linearly from 0", start_drop_path_rate=0.0)
    model.ignore("initial values are replaced by the weights", "mae_init")
    model.ignore(SCHEDULE, "max_update", "decoder_group", "log_norms")
    model.ignore("the teacher is always kept in float32", "ema_same_dtype")
    model.ignore(MONITORING, "min_target_var", "min_pred_var")

    width, depth, heads = model.get("embed_dim", 768), model.get("depth", 8), model.get("num_heads", 12)
    shared = target_fields(model) | {
        "num_masks": model.get("clone_batch", 1),
        "cls_loss_weight": model.get("cls_loss", 0.0),
    }
    encoder_only = model.get("ema_encoder_only", True)

    sections = model.section("modalities")
    supported = model.get("supported_modality")
    wanted = [supported.lower()] if supported else sorted(SECTIONS)
    sections.ignore("the model has no encoder for this modality", *(name for name in SECTIONS if name not in wanted))
    fields: dict[str, Any] = {"modalities": [SECTIONS[name].modality for name in wanted]}
    for name in wanted:
        section = sections.section(name)
        sub = shared | _convert_modality(section, SECTIONS[name], width, depth, heads, vocab_size)
        if not SECTIONS[name].has_cls_loss:
            sub["cls_loss_weight"] = 0.0
        local = section.get("ema_local_encoder", False)
        sub["ema_scope"] = "blocks" if encoder_only else "all" if local else "context"
        fields[f"{SECTIONS[name].modality}_config"] = sub
        section.finish()
    sections.finish()

    return fields | {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": int(width * model.get("mlp_ratio", 4)),
        "layer_norm_eps": model.get("norm_eps", 1e-6),
        "norm_first": model.get("layer_norm_first", False),
        "hidden_dropout": model.get("encoder_dropout", 0.1),
        "attention_dropout": model.get("attention_dropout", 0.1),
        "activation_dropout": model.get("activation_dropout", 0.0),
        "mlp_dropout": model.get("post_mlp_drop", 0.1),
        "drop_path_rate": model.get("end_drop_path_rate", 0.0),
        "layerdrop": model.get("layerdrop", 0.0),
        "masked_tokens": "dropped",
        "mask_seed": model.get("seed", 0),
        **teacher_schedule(model),
    }


def _convert_modality(
    section: Settings, kind: "Section", width: int, depth: int, heads: int, vocab_size: int | None
) -> dict[str, Any]:
    section.ignore("given by the name of the section", "type")
    section.require("the attention bias follows the model", num_alibi_heads=heads, model_depth=depth)
    section.require("the rate of a block grows linearly from 0", start_drop_path_rate=0.0)
    section.require("no published model uses it", learned_alibi=False, add_masks=False, remove_masks=False)
    section.require("no published model uses it", mask_prob_min=None, keep_masked_pct=0.0, mask_dropout=0.0)
    section.require("no published model uses it in pretraining", mask_channel_prob=0.0, local_grad_mult=1.0)
    section.require("masked tokens are replaced by zeros", encoder_zero_mask=True)
    section.ignore("without effect, no channel is masked", "mask_channel_length")
    section.ignore("the bias is computed for the length of each batch", "alibi_max_pos")

    alibi = None
    if section.get("use_alibi_encoder", False):
        alibi = "learned" if section.get("learned_alibi_scale", False) else "fixed"
    section.seen |= {"learned_alibi_scale"}

    length, inverse = section.get("mask_length", 5), section.get("inverse_mask", False)
    on_grid = MODALITIES[kind.modality].default.geometry == "grid"
    if inverse and not on_grid:
        raise ValueError(f"{section.where}.inverse_mask is True, but only images can be masked by visible blocks.")
    blocks = ("inverse_block" if inverse else "block") if on_grid else "span"

    decoder = section.section("decoder")
    decoder.require("no published model uses it", add_positions_masked=False, add_positions_all=False)
    fields = {
        "num_extra_tokens": section.get("num_extra_tokens", 0),
        "init_extra_token_zero": section.get("init_extra_token_zero", True),
        "prenet_depth": section.get("prenet_depth", 4),
        "prenet_dropout": section.get("prenet_dropout", 0.0),
        "prenet_layerdrop": section.get("prenet_layerdrop", 0.0),
        "prenet_drop_path_rate": section.get("end_drop_path_rate", 0.0),
        "alibi": alibi,
        "alibi_scale": section.get("alibi_scale", 1.0),
        "alibi_scale_per_head": section.get("learned_alibi_scale_per_head", False),
        "alibi_scale_per_layer": section.get("learned_alibi_scale_per_layer", False),
        "mask_sampler": "random" if length == 1 else blocks,
        "mask_prob": section.get("mask_prob", 0.7),
        "mask_length": length,
        "mask_prob_adjust": section.get("mask_prob_adjust", 0.0),
        "mask_noise_std": section.get("mask_noise_std", 0.01),
        "decoder_layers": decoder.get("decoder_layers", 5),
        "decoder_kernel_size": decoder.get("decoder_kernel", 5),
        "decoder_hidden_size": decoder.get("decoder_dim", 384),
        "decoder_groups": decoder.get("decoder_groups", 16),
        "decoder_residual": decoder.get("decoder_residual", True),
        "decoder_projection_layers": decoder.get("projection_layers", 1),
        "decoder_projection_ratio": decoder.get("projection_ratio", 2.0),
        "decoder_input_dropout": decoder.get("input_dropout", 0.1),
    }
    decoder.finish()
    return fields | kind.front_end(section, width, fields["prenet_depth"], vocab_size)


def _audio(section: Settings, width: int, prenet_depth: int, vocab_size: int | None) -> dict[str, Any]:
    section.require("the convolutions have layer norm", extractor_mode="layer_norm")
    section.require("no published model uses it", conv_pos_pre_ln=False)
    return conv_layers(section.get("feature_encoder_spec")) | {
        "context_norm": True,
        "conv_pos_depth": section.get("conv_pos_depth", 5),
        "conv_pos_width": section.get("conv_pos_width", 95),
        "conv_pos_groups": section.get("conv_pos_groups", 16),
    }


def _image(section: Settings, width: int, prenet_depth: int, vocab_size: int | None) -> dict[str, Any]:
    section.require("positions are sine and cosine tables", fixed_positions=True)
    section.require("decoders are convolutional", transformer_decoder=False, enc_dec_transformer=False)
    section.require("patches lie in a plane", alibi_dims=2)
    embed_dim = section.get("embed_dim", 768)
    return {
        "context_norm": True,
        "image_size": section.get("input_size", 224),
        "patch_size": section.get("patch_size", 16),
        "num_channels": section.get("in_chans", 3),
        "embed_dim": None if embed_dim == width else embed_dim,
        "position_embedding": "sincos_2d",
        "alibi_distance": section.get("alibi_distance", "manhattan"),
    }


def _text(section: Settings, width: int, prenet_depth: int, vocab_size: int | None) -> dict[str, Any]:
    section.require("positions are a learned table", learned_pos=True, no_token_positional_embeddings=False)
    section.require("embeddings are not scaled, and normalised", no_scale_embedding=True, layernorm_embedding=True)
    return text_ids(vocab_size) | {
        "context_norm": prenet_depth > 0,
        "max_position_embeddings": section.get("max_source_positions", 512),
        "embedding_dropout": section.get("dropout", 0.1),
    }


class Section(NamedTuple):
    """One section of `modalities` in fairseq."""

    modality: str
    front_end: Callable[..., dict[str, Any]]
    has_cls_loss: bool = False


SECTIONS = {
    "audio": Section("audio", _audio),
    "image": Section("vision", _image, True),
    "text": Section("text", _text),
}
