"""Operations of a training step over an encoder of transformers, by the rules of `flops.py`.

There is no common formula for the encoders on the Hub. PyTorch counts the forward pass, on a copy without memory (the
meta device), for three lengths; matrix products and convolutions grow linearly with the length, attention with its
square, so that three lengths determine the others.

Shapes: as in `flops.py`.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from d2v_train.measuring.flops import StepFlops, projection
from modeling_d2v import BackbonePreTrainingConfig, Data2VecConfig


logger = logging.getLogger(__name__)

FlopCounter = Callable[[str, dict[str, Tensor]], int]
"""Operations of a collated micro-batch of a modality."""
LENGTHS = (4, 8, 16)
"""Tokens of the counted inputs, few enough for any encoder."""


class BackboneFlops:
    """Counter of the operations of a micro-batch.

    Args:
        config: Configuration of the pretraining model.

    Raises:
        RuntimeError: The encoder's pass depends on values, which inputs without memory do not have.
    """

    def __init__(self, config: BackbonePreTrainingConfig):
        self.config = config
        # PyTorch counts the operations of matrix products, but not those of every fused kernel.
        plain = copy.deepcopy(config)
        plain.encoder_options = {**(config.encoder_options or {}), "attn_implementation": "eager"}
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            encoder = plain.make_encoder(train=True).eval()
        if config.modality == "vision":
            self.lengths = [math.prod(config.grid_size(config.image_size, config.image_size))]
        else:
            self.lengths = list(LENGTHS)
        self.counts = [_forward_flops(encoder, config.example(length, "meta")) for length in self.lengths]

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Return the operations of all parts, for a collated batch on the CPU."""
        samples, masks, tokens = inputs["mask"].shape
        return sum(self.parts(samples, masks, tokens, int(inputs["mask"].sum())).values())

    def parts(self, samples: int, masks: int, tokens: int, masked: int, gradients: bool = True) -> dict[str, int]:
        """Return operations by part: student and head (each with gradients, if any), and teacher.

        Args:
            samples, masks, tokens: B, M and T.
            masked: N.
            gradients: Whether there is a backward pass.
        """
        config, one, passes = self.config, self.forward(tokens), 3 if gradients else 1
        # The gradient of the pixels is not needed; encoders compute that of a waveform.
        patches = tokens * config.num_channels * config.patch_size**2 if config.modality == "vision" else 0
        unneeded = 2 * patches * config.hidden_size if gradients else 0
        return {
            "student": samples * masks * (passes * one - unneeded),
            "head": passes * masked * projection(config, config.hidden_size, config.hidden_size),
            "teacher": samples * one,
        }

    def forward(self, tokens: int) -> int:
        """Return the operations of the encoder on one sample of `tokens` tokens."""
        total = 0.0
        for place, count in zip(self.lengths, self.counts, strict=True):
            weight = 1.0
            for other in self.lengths:
                weight *= 1.0 if other == place else (tokens - other) / (place - other)
            total += weight * count
        return round(total)


def step_flops(config: Any, frozen_blocks: bool = False) -> FlopCounter | None:
    """Return a counter for a pretraining model, maybe with frozen blocks; None where nothing can be counted."""
    if isinstance(config, Data2VecConfig):
        return StepFlops(config, frozen_blocks)
    if not isinstance(config, BackbonePreTrainingConfig):
        return None
    try:
        return BackboneFlops(config)
    except Exception as error:  # encoders of the Hub may raise anything without memory or at these lengths
        logger.warning(
            "The operations of %s cannot be counted, so the log has no utilisation: %s",
            config.encoder_class,
            " ".join(str(error).split()),
        )
        return None


def _forward_flops(encoder: PreTrainedModel, values: Tensor) -> int:
    """Return the operations of one forward pass, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(**{encoder.main_input_name: values})
    return counter.get_total_flops()
