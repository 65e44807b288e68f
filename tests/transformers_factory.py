"""Models of ours in a shape that transformers has too, for the tests of what leads there."""

from typing import Any

import torch
from head_factory import HEADS, head_inputs, make_head
from model_factory import inputs_for, randomise, tiny_config

from modeling_d2v import Data2VecModel


# What a tiny configuration of ours needs to be one that transformers can compute.
SHAPED: dict[str, dict[str, Any]] = {
    "text": {"masked_tokens": "replaced"},
    "audio": {"masked_tokens": "replaced", "audio_config": {"alibi": None, "prenet_depth": 0}},
    "vision": {
        "masked_tokens": "replaced",
        "norm_first": True,
        "layer_scale_init_value": 0.1,
        "vision_config": {
            "prenet_depth": 0,
            "context_norm": False,
            "position_embedding": "none",
            "relative_position_bias": True,
            "mask_sampler": "block",
            "mask_length": 2,
            "cls_loss_weight": 0.0,
        },
    },
}
SEGMENTATION = {"vision_config": {**SHAPED["vision"]["vision_config"], "patch_size": 16, "image_size": 64}}
EXPORTED = [name for name in HEADS if name != "Data2VecBackbone"]


def shaped(modality: str, **overrides: Any) -> dict[str, Any]:
    """`SHAPED` with further settings."""
    part = f"{modality}_config"
    merged = {**SHAPED[modality], **overrides}
    merged[part] = {**SHAPED[modality].get(part, {}), **overrides.get(part, {})}
    return merged


def ours(name: str, **overrides: Any) -> torch.nn.Module:
    """A head of ours that transformers has too."""
    if name == "Data2VecForSemanticSegmentation":
        overrides = {"num_hidden_layers": 6, **SEGMENTATION, **overrides}
    return make_head(name, **shaped(HEADS[name].modality, **overrides))


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    return inputs_for("vision", 3, size=64) if name == "Data2VecForSemanticSegmentation" else head_inputs(name)


def encoder(modality: str, **overrides: Any) -> Data2VecModel:
    return randomise(Data2VecModel(tiny_config(modality, **shaped(modality, **overrides)))).eval()
