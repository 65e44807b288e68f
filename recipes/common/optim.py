"""Optimizer and learning rate: AdamW with decay where it belongs, and a schedule that is a function of the step."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from recipes.common.options import OptimOptions


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter decays: not 1-D ones (norms, mask tokens, layer scales), biases and ALiBi scales."""
    return parameter.ndim > 1 and not name.endswith(("bias", "attention_bias.scale"))


def layer_scale(name: str, config: Any, decay: float) -> float:
    """Factor of a parameter's learning rate: `decay` to the power of its distance from the head (BEiT, section 3.1).

    The front end is the lowest layer, then come prenet and shared blocks; the head, the final norm and the table of
    relative positions that all blocks share have 1.

    Args:
        name: parameter of a task head or of an encoder.
        config: `Data2VecConfig` of one modality.
        decay: factor from each layer to the one below.
    """
    prenet = config.modality_config(config.modalities[0]).prenet_depth
    top = prenet + config.num_hidden_layers + 1
    block = re.search(r"(prenet|encoder\.blocks)\.(\d+)\.", name)
    if block:
        level = int(block[2]) + 1 + (prenet if block[1] != "prenet" else 0)
    else:
        level = 0 if "modality_encoders." in name and not name.endswith("attention_bias.table") else top
    return decay ** (top - level)


def decay_groups(model: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict]:
    """Parameter groups with and without weight decay.

    What decays is `has_weight_decay`, as in the reference's composite optimizer; extra tokens and tables decay. Frozen
    parameters (the teacher) are in no group.

    Args:
        model: model with trainable parameters.
        weight_decay: decay of the first group.
        decay_all: put every parameter into the first group.
    """
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decayed if decay_all or has_weight_decay(name, parameter) else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, options: OptimOptions) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in its fused form."""
    return torch.optim.AdamW(
        decay_groups(model, options.weight_decay, options.decay_all),
        lr=options.lr,
        betas=tuple(options.betas),
        eps=options.eps,
        fused=True,
    )


def learning_rate(
    step: int,
    *,
    peak: float,
    least: float,
    warmup_steps: int,
    total_steps: int,
    hold_steps: int = 0,
    curve: str = "cosine",
) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, the peak for `hold_steps`, a fall to `least`.

    The first step of a warm-up already learns, at peak / warmup_steps; the last step of the schedule is the last
    one above `least`.

    Args:
        step: finished steps.
        peak, least: greatest and last learning rate.
        warmup_steps, hold_steps, total_steps: of the warm-up, of the peak, and of all three stages together.
        curve: "cosine" (half a period) or "exponential", which needs a `least` above 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= total_steps:
        return least
    start = warmup_steps + hold_steps
    progress = max(0, step - start) / max(1, total_steps - start)
    if curve == "exponential":
        return peak * (least / peak) ** progress
    return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Gives all parameter groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
