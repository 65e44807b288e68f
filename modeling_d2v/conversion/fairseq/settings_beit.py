"""Settings of the released image models of data2vec 1.0, which were trained with BEiT's program.

Their checkpoints hold the arguments of that program, or nothing if DeepSpeed wrote them. Sizes are read from the
tensors; other settings are those of the published model of the same width.
"""

import ast
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modeling_d2v.configuration_modalities import norm_names
from modeling_d2v.conversion.fairseq.settings import SCHEDULE, Settings, chosen_norms
from modeling_d2v.presets import get_preset


_PRESETS = {768: "vision-base-v1", 1024: "vision-large-v1"}
SHAPES = "shapes"


def beit_shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of a model in BEiT's layout, from the shapes of its tensors.

    Raises:
        ValueError: The model has parts that data2vec lacks: absolute positions, or a relative bias for each layer.
    """
    tensors = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    for name, what in {
        "pos_embed": "learned absolute positions",
        "blocks.0.attn.relative_position_bias_table": "a relative position bias for each layer",
        "layer_log_weights": "a learned mean of layers",
    }.items():
        if name in tensors:
            raise ValueError(
                f"This is a model in BEiT's layout with {what} ({name}), which data2vec does not have: a BEiT model, "
                "or a variant of data2vec's fine-tuning that was not released. transformers converts BEiT itself."
            )
    needed = ("cls_token", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight")
    table = tensors.get("rel_pos_bias.relative_position_bias_table")
    missing = [name for name in needed if name not in tensors]
    if missing or table is None:
        raise ValueError(
            "This model in BEiT's layout lacks "
            f"{', '.join(missing or ['rel_pos_bias.relative_position_bias_table'])}, which every image model of "
            "data2vec 1.0 has."
        )
    head = tensors.get("lm_head.weight")
    if head is not None and head.shape[0] != head.shape[1]:
        raise ValueError(
            f"This is a BEiT model that predicts {head.shape[0]} kinds of visual tokens (lm_head.weight), not "
            "data2vec, which predicts the features of its teacher. transformers converts BEiT itself."
        )
    patch = tensors["patch_embed.proj.weight"].shape
    window = (math.isqrt(table.shape[0] - 3) + 1) // 2
    return {
        "hidden_size": tensors["cls_token"].shape[-1],
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")),
        "num_attention_heads": table.shape[1],
        "intermediate_size": tensors["blocks.0.mlp.fc1.weight"].shape[0],
        "patch_size": patch[-1],
        "num_channels": patch[1],
        "image_size": window * patch[-1],
        "layer_scale": "blocks.0.gamma_1" in tensors,
    }


def convert_beit(model: Settings, vocab_size: int | None, task: Mapping[str, Any]) -> dict[str, Any]:
    sizes = dict(model.get(SHAPES))
    preset = get_preset(_PRESETS.get(sizes["hidden_size"], "vision-base-v1"))
    vision, width = preset["vision_config"], sizes["hidden_size"]
    vision |= {name: sizes.pop(name) for name in ("patch_size", "num_channels", "image_size")}
    vision["loss_scale"] = 1 / width  # the reference averages over channels
    scaled = sizes.pop("layer_scale")
    layers = sizes["num_hidden_layers"]
    scale = model.get("layer_scale_init_value", preset["layer_scale_init_value"])
    fields = preset | sizes | {"layer_scale_init_value": (scale or 1e-4) if scaled else None, "vision_config": vision}
    if "target_layers" in model.values:
        _pretraining(model, fields, vision, layers)
    else:
        vision["average_top_k_layers"] = min(vision["average_top_k_layers"], layers)
    fields["drop_path_rate"] = model.get("drop_path", preset["drop_path_rate"])
    fields["attention_dropout"] = model.get("attn_drop_rate", preset["attention_dropout"])
    fields["hidden_dropout"] = fields["mlp_dropout"] = model.get("drop", 0.0)
    model.ignore(SCHEDULE, *sorted(set(model.values) - model.seen))
    return fields


def _pretraining(model: Settings, fields: dict[str, Any], vision: dict[str, Any], layers: int) -> None:
    """Set mask, targets and teacher where the checkpoint has the arguments of pretraining."""
    if model.get("mask_dropout_prob", -1.0) > 0:
        model.without("masked patches stay masked", mask_dropout_prob=-1.0)
    model.without("no loss keeps up the variance of predictions", var_w0=0.0)
    targets = model.get("target_layers")
    targets = ast.literal_eval(targets) if isinstance(targets, str) else targets
    targets = sorted(layer % layers for layer in targets)
    if targets != list(range(layers - len(targets), layers)):
        raise ValueError(
            f"{model.where}.target_layers is {targets}; here targets are the mean of the last layers, without gaps."
        )
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    last = "layer" if not model.get("no_target_layer_norm_last", False) else None
    before = chosen_norms(model, target_batch_norm="batch", target_instance_norm="instance")
    scale, end_of_block = model.get("loss_scale", -1), model.get("layer_results", "end") == "end"
    vision |= {
        "average_top_k_layers": len(targets),
        "end_of_block_targets": end_of_block,
        "scaled_targets": not end_of_block and fields["layer_scale_init_value"] is not None,
        "layer_target_norm": [*norm_names(before), last] if before and last else before or last,
        "mean_target_norm": chosen_norms(model, post_target_instance_norm="instance", post_target_layer_norm="layer"),
        "loss_scale": vision["loss_scale"] * (1 if scale == -1 else scale),
        "loss_beta": 0.0 if model.get("l2_loss", False) else model.get("l1_beta", 0.12),
        "mask_prob": model.get("num_mask_patches", 120) / patches,
    }
    # Its decay starts lower where `ema_start_at` is set; the released models have 0 there, which makes it constant.
    start, end = model.get("ema_start_at", 0), model.get("ema_decay", 0.9998)
    first = model.get("ema_decay_init", 0.999) if start > 0 else end
    fields |= {"ema_decay": first, "ema_end_decay": end, "ema_anneal_end_step": max(start, 1)}
