"""Optimizer and learning rate: AdamW with decay where it belongs, and a schedule that is a function of the step."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from d2v_train.options.errors import OptionError
from d2v_train.options.sections import OptimOptions


def has_weight_decay(name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter decays: not 1-D ones (norms, mask tokens, layer scales), biases and ALiBi scales."""
    return parameter.ndim > 1 and not name.endswith(("bias", "attention_bias.scale"))


def layer_scale(name: str, config: Any, decay: float) -> float:
    """Return the learning rate factor of a parameter: `decay` ** (distance from the head) (BEiT, section 3.1).

    The front end is the lowest layer, followed by prenet and shared blocks; the factor of the head, the final norm and
    the table of relative positions that all blocks share is 1.

    Args:
        name: Parameter of a task head or of an encoder.
        config: `Data2VecConfig` of one modality.
        decay: Factor from each layer to the one below.
    """
    prenet = config.modality_config(config.modalities[0]).prenet_depth
    top = prenet + config.num_hidden_layers + 1
    block = re.search(r"(prenet|encoder\.blocks)\.(\d+)\.", name)
    if block:
        level = int(block[2]) + 1 + (prenet if block[1] != "prenet" else 0)
    else:
        level = 0 if "modality_encoders." in name and not name.endswith("attention_bias.table") else top
    return decay ** (top - level)


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_all: bool = False, local_encoder_lr: float = 1.0
) -> list[dict]:
    """Return parameter groups with and without weight decay, and with an own learning rate for local encoders.

    `has_weight_decay` selects what decays, as in the reference's composite optimizer; extra tokens and tables decay.
    Frozen parameters (the teacher) are not in any group.

    Args:
        model: Model with trainable parameters.
        weight_decay: Decay of those that decay.
        decay_all: Let every parameter decay.
        local_encoder_lr: Factor of the learning rate of the local encoders, stored in a group as `lr_factor`.

    Raises:
        OptionError: The factor is set for a model without a local encoder of this package.
    """
    if local_encoder_lr != 1 and not any(".local_encoder." in name for name, _ in model.named_parameters()):
        raise OptionError(
            f"optim.local_encoder_lr is {local_encoder_lr}, but this model has no local encoder: an encoder of "
            "transformers is trained as a whole. Set it to 1."
        )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    # The order of the groups numbers the parameters in checkpoints.
    for factor in dict.fromkeys((1.0, local_encoder_lr)):
        groups |= {(decay, factor): [] for decay in dict.fromkeys((weight_decay, 0.0))}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if decay_all or has_weight_decay(name, parameter) else 0.0
            groups[decay, local_encoder_lr if ".local_encoder." in name else 1.0].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
        if parameters
    ]


def build_optimizer(model: nn.Module, options: OptimOptions) -> torch.optim.AdamW:
    """Return fused AdamW over the trainable parameters."""
    return torch.optim.AdamW(
        parameter_groups(model, options.weight_decay, options.decay_all, options.local_encoder_lr),
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
    """Return the learning rate of a step: linear warm-up, the peak for `hold_steps`, a fall to `least`.

    The first step of a warm-up has the rate peak / warmup_steps; the last step of the schedule is the last one above
    `least`.

    Args:
        step: Number of finished steps.
        peak, least: Greatest and last learning rate.
        warmup_steps, hold_steps, total_steps: Steps of the warm-up, of the peak, and of all three stages.
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
    """Set one learning rate, times the factor of each parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_factor"]
