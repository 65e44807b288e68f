"""Operations of a training step over an encoder of transformers, by the rules of `flops.py`.

Nobody can write down a formula for every encoder of the Hub. Its forward pass is counted by PyTorch, on a copy without
memory (the meta device) and for a few lengths; in between and beyond, matrix products and convolutions grow with the
length, attention with its square, so that three lengths tell all.

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
"""Tokens of the inputs that are counted; any encoder takes so few."""


class BackboneFlops:
    """Operations of a micro-batch.

    Args:
        config: of the pretraining model.

    Raises:
        RuntimeError: the encoder's pass depends on values, which inputs without memory do not have.
    """

    def __init__(self, config: BackbonePreTrainingConfig):
        self.config = config
        # PyTorch knows the operations of matrix products, not those of every fused kernel.
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
        """Operations of all parts together, for a collated batch on the CPU."""
        samples, masks, tokens = inputs["mask"].shape
        return sum(self.parts(samples, masks, tokens, int(inputs["mask"].sum())).values())

    def parts(self, samples: int, masks: int, tokens: int, masked: int, gradients: bool = True) -> dict[str, int]:
        """Operations by part: student and head (each with its gradients, if any), and teacher.

        Args:
            samples, masks, tokens: B, M and T.
            masked: N.
            gradients: whether there is a backward pass.
        """
        config, one, passes = self.config, self.forward(tokens), 3 if gradients else 1
        # The gradient of the pixels is not needed, that of a waveform is computed by the encoders themselves.
        patches = tokens * config.num_channels * config.patch_size**2 if config.modality == "vision" else 0
        unneeded = 2 * patches * config.hidden_size if gradients else 0
        return {
            "student": samples * masks * (passes * one - unneeded),
            "head": passes * masked * projection(config, config.hidden_size, config.hidden_size),
            "teacher": samples * one,
        }

    def forward(self, tokens: int) -> int:
        """Operations of the encoder on one sample of so many tokens."""
        total = 0.0
        for place, count in zip(self.lengths, self.counts, strict=True):
            weight = 1.0
            for other in self.lengths:
                weight *= 1.0 if other == place else (tokens - other) / (place - other)
            total += weight * count
        return round(total)


def step_flops(config: Any) -> FlopCounter | None:
    """Counter for a pretraining model; None where nothing can be counted."""
    if isinstance(config, Data2VecConfig):
        return StepFlops(config)
    if not isinstance(config, BackbonePreTrainingConfig):
        return None
    try:
        return BackboneFlops(config)
    except Exception as error:  # what an encoder of the Hub raises without memory or at these lengths, nobody knows
        logger.warning(
            "The operations of %s cannot be counted, so the log has no utilisation: %s",
            config.encoder_class,
            " ".join(str(error).split()),
        )
        return None


def _forward_flops(encoder: PreTrainedModel, values: Tensor) -> int:
    """Operations of one forward pass, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(**{encoder.main_input_name: values})
    return counter.get_total_flops()
