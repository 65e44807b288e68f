"""Settings of data2vec 2.0 in fairseq (`data2vec_multi`) translated into the fields of a `Data2VecConfig`.

Sizes, and parts that are present or absent, are read off the tensors where they tell them (`shapes_v2.py`): settings
of a file may be those of another program or older than the code that wrote it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from modeling_d2v.configuration_data2vec import SHARED_DECODER
from modeling_d2v.conversion.fairseq.settings import (
    MONITORING,
    SCHEDULE,
    Settings,
    conv_layers,
    target_fields,
    teacher_schedule,
    text_ids,
)
from modeling_d2v.conversion.fairseq.shapes_v2 import ModelShapes
from modeling_d2v.modalities import MODALITIES


_DECODER_FIELDS = {
    "decoder_layers": "decoder_layers",
    "decoder_kernel": "decoder_kernel_size",
    "decoder_dim": "decoder_hidden_size",
    "decoder_groups": "decoder_groups",
    "decoder_residual": "decoder_residual",
    "projection_layers": "decoder_projection_layers",
    "projection_ratio": "decoder_projection_ratio",
}
_RATES = "the rate of a block rises linearly from 0 here"
_MASKS = "the masks of further pretraining are drawn without it"


def convert_v2(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    model.without(_RATES, start_drop_path_rate=0.0)
    model.ignore("initial values are replaced by the weights", "mae_init")
    model.ignore(SCHEDULE, "max_update", "decoder_group", "log_norms")
    model.ignore("the teacher is always kept in float32", "ema_same_dtype")
    model.ignore("a teacher that is missing starts as a copy of the student", "skip_ema")
    model.ignore(MONITORING, "min_target_var", "min_pred_var")
    shapes = ModelShapes(model.shapes)
    width = model.measured("embed_dim", 768, shapes.width)
    depth = model.measured("depth", 8, shapes.depth)
    pre_norm = bool(model.measured("layer_norm_first", False, shapes.pre_norm))
    heads = model.get("num_heads", 12)
    shared = _targets(model, depth) | {
        "num_masks": model.get("clone_batch", 1),
        "cls_loss_weight": model.get("cls_loss", 0.0),
        "regression_loss_weight": model.get("d2v_loss", 1.0),
    }
    reconstruction = model.get("recon_loss", 0.0)
    encoder_only = model.get("ema_encoder_only", True)

    sections = model.section("modalities")
    wanted = _wanted(model, sections, shapes)
    sections.ignore("the model has no encoder for this modality", *(name for name in SECTIONS if name not in wanted))
    fields: dict[str, Any] = {"modalities": [SECTIONS[name].modality for name in wanted]}
    for name in wanted:
        section, kind = sections.section(name), SECTIONS[name]
        outer = Outer(width, depth, heads, model.get("mlp_ratio", 4.0), pre_norm, vocab_size, shapes.of_modality(name))
        sub = shared | _convert_modality(section, kind, outer)
        if sub["cls_loss_weight"] and not sub["num_extra_tokens"]:
            # The reference stops at the first step of such a modality.
            section.notes.append(f"cls_loss is 0 for {name}: it has no extra token to predict with.")
            sub["cls_loss_weight"] = 0.0
        if reconstruction:
            _reconstruct(model, name, sub, reconstruction)
        local = section.get("ema_local_encoder", False)
        sub["ema_scope"] = "blocks" if encoder_only else "all" if local else "context"
        fields[f"{kind.modality}_config"] = sub
        section.finish()
    sections.finish()

    return fields | {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": model.measured_product("mlp_ratio", 4.0, width, shapes.intermediate),
        "layer_norm_eps": model.get("norm_eps", 1e-6),
        "norm_affine": bool(model.measured("norm_affine", True, shapes.norm_affine)),
        "norm_first": pre_norm,
        # The pre-norm block of the reference overwrites its residual before it is added.
        "mlp_residual": not pre_norm,
        "hidden_dropout": model.get("encoder_dropout", 0.1),
        "attention_dropout": model.get("attention_dropout", 0.1),
        "activation_dropout": model.get("activation_dropout", 0.0),
        "mlp_dropout": model.get("post_mlp_drop", 0.1),
        "input_dropout": model.get("dropout_input", 0.0),
        "drop_path_rate": model.get("end_drop_path_rate", 0.0),
        "layerdrop": model.get("layerdrop", 0.0),
        "masked_tokens": "dropped",
        "mask_seed": int(model.number("seed", 0)),
        **_shared_decoder(model),
        **teacher_schedule(model),
    }


def _shared_decoder(model: Settings) -> dict[str, Any]:
    """Return the field of the decoder that modalities share, unless it is left out."""
    if model.get("shared_decoder") is None or model.encoder_only:
        return {}
    decoder = model.section("shared_decoder")
    # The reference restores the sequence once for each modality, as the modality's own decoder says.
    decoder.ignore("that of the modality is used", "input_dropout", "add_positions_masked", "add_positions_all")
    fields = {ours: decoder.get(theirs, SHARED_DECODER[ours]) for theirs, ours in _DECODER_FIELDS.items()}
    fields["decoder_projection_layers"] = max(fields["decoder_projection_layers"], 1)
    decoder.finish()
    return {"shared_decoder": fields}


class Outer(NamedTuple):
    """What a modality takes from the settings of the model, and what its tensors tell."""

    width: int
    depth: int
    heads: int
    mlp_ratio: float
    pre_norm: bool
    vocab_size: int | None
    shapes: Any


def _targets(model: Settings, depth: int) -> dict[str, Any]:
    fields = target_fields(model)
    k = fields["average_top_k_layers"]
    # Of a list of `depth` layers, the reference takes the last k: all of them where k is larger, or 0.
    fields["average_top_k_layers"] = min(k, depth) if k else depth
    return fields


def _wanted(model: Settings, sections: Settings, shapes: ModelShapes) -> list[str]:
    """Return the modalities that the model has encoders for, by the names of their sections."""
    supported = model.get("supported_modality")
    names = [str(supported).rpartition(".")[2].lower()] if supported else sorted(SECTIONS)
    return shapes.modalities(SECTIONS) or names


def _reconstruct(model: Settings, name: str, sub: dict[str, Any], weight: float) -> None:
    """Set the weight of the reconstruction of pixels, which the reference has for images alone."""
    if name != "image":
        model.for_pretraining(f"only pixels can be reconstructed, and {name} has none", recon_loss=0.0)
    elif not model.encoder_only:
        sub["reconstruction_loss_weight"] = weight


def _convert_modality(section: Settings, kind: "Section", outer: Outer) -> dict[str, Any]:
    shapes = outer.shapes
    section.ignore("given by the name of the section", "type")
    section.without(_RATES, start_drop_path_rate=0.0)
    section.without(_MASKS, mask_prob_min=None, mask_dropout=0.0, add_masks=False, remove_masks=False)
    section.without("every masked token is hidden from the student", keep_masked_pct=0.0)
    section.without("no channel is set to zero in pretraining", mask_channel_prob=0.0)
    section.without("masked tokens are replaced by zeros, not by noise", encoder_zero_mask=True)
    section.ignore("without effect, no channel is masked", "mask_channel_length")

    prenet_depth = section.measured("prenet_depth", 4, shapes.prenet_depth)
    fields = {
        "num_extra_tokens": section.measured("num_extra_tokens", 0, shapes.extra_tokens),
        "init_extra_token_zero": section.get("init_extra_token_zero", True),
        "prenet_depth": prenet_depth,
        "prenet_dropout": section.get("prenet_dropout", 0.0),
        "prenet_layerdrop": section.get("prenet_layerdrop", 0.0),
        "prenet_drop_path_rate": section.get("end_drop_path_rate", 0.0),
        # A pre-norm model of the reference has no norm of its own for the context.
        "context_norm": not outer.pre_norm,
        "mask_noise_std": section.get("mask_noise_std", 0.01),
        "local_grad_scale": max(section.get("local_grad_mult", 1.0), 0.0),
        **_masks(section, kind),
        **_alibi(section, outer, prenet_depth),
    }
    return fields | _decoder(section, kind, outer) | kind.front_end(section, outer, prenet_depth)


def _masks(section: Settings, kind: "Section") -> dict[str, Any]:
    length, inverse = section.get("mask_length", 5), section.get("inverse_mask", False)
    on_grid = MODALITIES[kind.modality].default.geometry == "grid"
    if inverse and not on_grid:
        section.without("spans are masked, not kept", inverse_mask=False)
    blocks = ("inverse_block" if inverse else "block") if on_grid else "span"
    share = section.get("mask_prob", 0.7)
    if not 0 < share < 1:
        section.without("a share of the tokens lies between 0 and 1", mask_prob=0.7)
        share = min(max(share, 0.01), 0.99)
    return {
        "mask_sampler": "random" if length <= 1 else blocks,
        "mask_prob": share,
        "mask_length": max(length, 1),
        "mask_prob_adjust": section.get("mask_prob_adjust", 0.0),
    }


def _alibi(section: Settings, outer: Outer, prenet_depth: int) -> dict[str, Any]:
    """Return the fields of the attention bias, whose heads, layers and scale the tensor of scales tells."""
    shapes, heads = outer.shapes, outer.heads
    used = section.measured("use_alibi_encoder", False, shapes.has_alibi)
    learned = section.get("learned_alibi_scale", shapes.has_alibi or False)
    scale = section.get("alibi_scale", 1.0)
    per_head, per_layer = shapes.scales_per_head, shapes.scales_per_layer
    layers = prenet_depth + outer.depth
    per_head = section.measured("learned_alibi_scale_per_head", False, per_head)
    per_layer = section.measured("learned_alibi_scale_per_layer", False, per_layer if layers > 1 else None)
    biased = section.number("num_alibi_heads", heads)
    rows = section.number("model_depth", outer.depth)
    section.ignore("the bias is computed for the length of each batch", "alibi_max_pos")
    matrix = section.get("learned_alibi", False)
    if not used:
        return {"alibi": None}
    if matrix:
        raise ValueError(
            f"{section.where}.learned_alibi is True: a bias learned for every pair of positions is missing here, and "
            "the reference stops when it makes one."
        )
    if per_head and shapes.scale_heads not in (None, 1):
        biased = section.measured("num_alibi_heads", heads, shapes.scale_heads)
    if biased > heads:
        raise ValueError(f"{section.where}.num_alibi_heads is {biased}, but the blocks have {heads} heads.")
    if per_layer and rows != outer.depth:
        raise ValueError(
            f"{section.where}.model_depth is {rows}, so that there are {prenet_depth + rows} scales of the attention "
            f"bias for {layers} blocks: one for each block can be converted."
        )
    return {
        "alibi": "learned" if learned else "fixed",
        "alibi_scale": scale if learned else max(scale, 0.0),
        "alibi_scale_per_head": bool(per_head),
        "alibi_scale_per_layer": bool(per_layer),
        "alibi_num_heads": None if biased == heads else biased,
    }


def _decoder(section: Settings, kind: "Section", outer: Outer) -> dict[str, Any]:
    """Return the fields of the decoder, which serves pretraining alone."""
    if section.get("decoder", {}) is None:
        section.refuse_pretraining("decoder", "pretraining needs a decoder")
        section.seen |= {"transformer_decoder", "enc_dec_transformer"}
        return {}
    decoder, shapes = section.section("decoder"), outer.shapes
    fixed = kind.modality == "vision" and section.get("fixed_positions", True)
    masked, everywhere = decoder.get("add_positions_masked", False), decoder.get("add_positions_all", False)
    if (masked or everywhere) and not fixed:
        names = {"add_positions_masked": masked, "add_positions_all": everywhere}
        decoder.for_pretraining("there are no fixed positions to add", **{name: False for name in names})
        masked = everywhere = False
    if kind.modality == "vision" and section.measured("transformer_decoder", False, shapes.transformer_decoder):
        crossed = bool(section.measured("enc_dec_transformer", False, shapes.cross_attention))
        if crossed and not fixed:
            section.refuse_pretraining("enc_dec_transformer", "there are no fixed positions to ask for")
        if crossed and everywhere:
            decoder.refuse_pretraining(
                "add_positions_all", "the reference adds positions in order to visible tokens that are in no order"
            )
        if crossed and section.encoder_only:
            decoder.seen |= set(decoder.values)
            return {}
        return _transformer_decoder(decoder, crossed, outer) | {
            "decoder_positions_masked": bool(masked),
            "decoder_positions_all": bool(everywhere),
        }
    section.seen |= {"transformer_decoder", "enc_dec_transformer"}
    layers = decoder.get("projection_layers", 1)
    on_grid = MODALITIES[kind.modality].default.geometry == "grid"
    if on_grid and layers != 1:
        # Its decoder over rows and columns does not read them.
        decoder.ignore("the decoder of images has one linear layer whatever it says", "projection_layers")
    ratio = decoder.get("projection_ratio", 2.0)
    width = decoder.measured("decoder_dim", 384, shapes.decoder_width)
    layers = decoder.measured("projection_layers", 1, shapes.projection_layers) if not on_grid else 1
    if shapes.projection_hidden is not None and int(width * ratio) != shapes.projection_hidden:
        ratio = decoder.measured("projection_ratio", 2.0, shapes.projection_hidden / width)
    groups = decoder.get("decoder_groups", 16)
    fields = {
        "decoder_layers": decoder.measured("decoder_layers", 5, shapes.decoder_layers),
        "decoder_kernel_size": decoder.measured("decoder_kernel", 5, shapes.decoder_kernel),
        "decoder_hidden_size": width,
        "decoder_groups": decoder.measured("decoder_groups", 16, shapes.decoder_groups(outer.width)) or groups,
        "decoder_residual": decoder.get("decoder_residual", True),
        "decoder_projection_layers": max(layers, 1),
        "decoder_projection_ratio": ratio,
        "decoder_input_dropout": decoder.get("input_dropout", 0.1),
        "decoder_positions_masked": bool(masked),
        "decoder_positions_all": bool(everywhere),
    }
    decoder.finish()
    return fields


def _transformer_decoder(decoder: Settings, crossed: bool, outer: Outer) -> dict[str, Any]:
    """Return the fields of a decoder of blocks with 8 heads, and the ratio of the shared ones or 4."""
    shapes = outer.shapes
    decoder.ignore(
        "a decoder of transformer blocks does not read it",
        *("decoder_groups", "decoder_kernel", "decoder_residual", "projection_layers", "projection_ratio"),
    )
    width = decoder.measured("decoder_dim", 384, shapes.decoder_width)
    fields = {
        "decoder_type": "cross_attention" if crossed else "transformer",
        "decoder_layers": decoder.measured("decoder_layers", 5, shapes.decoder_layers),
        "decoder_hidden_size": width,
        "decoder_num_attention_heads": 8,
        "decoder_intermediate_size": shapes.decoder_intermediate or int(width * (4.0 if crossed else outer.mlp_ratio)),
        "decoder_projection_layers": 1,
        "decoder_input_dropout": decoder.get("input_dropout", 0.1),
    }
    decoder.finish()
    return fields


def _audio(section: Settings, outer: Outer, prenet_depth: int) -> dict[str, Any]:
    shapes = outer.shapes
    mode = section.measured("extractor_mode", "layer_norm", shapes.extractor_mode)
    if mode not in ("layer_norm", "default"):
        raise ValueError(f"{section.where}.extractor_mode is {mode!r}; the reference has 'layer_norm' and 'default'.")
    layers = conv_layers(section.get("feature_encoder_spec", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] * 2"))
    for name, found in shapes.convolutions.items():
        if len(found) == len(layers[name]) and found != layers[name]:
            section.notes.append(f"{name} is {found} according to the tensors, the settings say {layers[name]}.")
            layers[name] = found
    depth = section.measured("conv_pos_depth", 5, shapes.position_layers)
    width = section.get("conv_pos_width", 95)
    kernel = shapes.position_kernel
    if kernel is not None and max(3, width // depth) != kernel:
        width = section.measured("conv_pos_width", 95, kernel * depth)
    return layers | {
        "conv_norm": "layer" if mode == "layer_norm" else "group",
        "conv_pos_depth": depth,
        "conv_pos_width": width,
        "conv_pos_groups": section.measured("conv_pos_groups", 16, shapes.position_groups(outer.width)),
        "conv_pos_pre_norm": bool(section.measured("conv_pos_pre_ln", False, shapes.position_norm)),
    }


def _image(section: Settings, outer: Outer, prenet_depth: int) -> dict[str, Any]:
    shapes = outer.shapes
    dims = section.get("alibi_dims", 2)
    distance = section.get("alibi_distance", "manhattan")
    if dims not in (1, 2):
        raise ValueError(f"{section.where}.alibi_dims is {dims}; the reference measures distances in 1 or 2.")
    embed_dim = section.measured("embed_dim", 768, shapes.patch_width)
    patch_size = section.measured("patch_size", 16, shapes.patch_size)
    size = section.measured("input_size", 224, shapes.image_size)
    if size % patch_size:
        section.notes.append(
            f"input_size is {size - size % patch_size}: the reference cuts off what is left over by patches of "
            f"{patch_size} pixels; crop images on the right and below."
        )
        size -= size % patch_size
    return {
        "image_size": size,
        "patch_size": patch_size,
        "num_channels": section.measured("in_chans", 3, shapes.channels),
        "embed_dim": None if embed_dim == outer.width and not shapes.has_expansion else embed_dim,
        "position_embedding": "sincos_2d" if section.get("fixed_positions", True) else "none",
        "alibi_distance": distance if dims == 2 else "sequence",
    }


def _text(section: Settings, outer: Outer, prenet_depth: int) -> dict[str, Any]:
    shapes = outer.shapes
    positions = "learned" if section.get("learned_pos", True) else "sinusoidal"
    if section.get("no_token_positional_embeddings", False):
        positions = "none"
    if shapes.learned_positions and positions != "learned":
        section.notes.append(f"positions are a learned table according to the tensors, the settings say {positions}.")
        positions = "learned"
    longest = section.get("max_source_positions", 512)
    ids = text_ids(outer.vocab_size)
    if shapes.learned_positions:
        found = shapes.learned_positions - ids["pad_token_id"] - 1
        longest = section.measured("max_source_positions", 512, found)
    # Without a prenet, the reference leaves out norm and dropout between embeddings and blocks.
    without = {} if prenet_depth else {"context_norm": False, "prenet_dropout": 0.0}
    return (
        ids
        | without
        | {
            "max_position_embeddings": longest,
            "position_embedding": positions,
            "scale_embedding": not section.get("no_scale_embedding", True),
            "embedding_norm": bool(section.measured("layernorm_embedding", True, shapes.embedding_norm)),
            "embedding_dropout": section.get("dropout", 0.1),
        }
    )


class Section(NamedTuple):
    """One section of `modalities` in fairseq."""

    modality: str
    front_end: Callable[..., dict[str, Any]]


SECTIONS = {
    "audio": Section("audio", _audio),
    "image": Section("vision", _image),
    "text": Section("text", _text),
}
