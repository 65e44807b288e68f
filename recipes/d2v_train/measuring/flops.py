"""Floating point operations of a training step, from the configuration and the shape of a batch.

Counted are matrix products and convolutions, two operations for each multiplication with its addition: student and
teacher forward, and twice the student's for its gradients. Norms, activations, masks and the optimizer are not, nor
what gradient checkpointing or fused attention compute again: this is the work that the method asks for, padding
included. Nothing here touches the accelerator.

Shapes: B samples, M masks per sample, T tokens, V visible tokens (the most of the batch), E extra tokens, D hidden
size, N masked tokens over all samples and masks.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

from torch import Tensor

from modeling_d2v import Data2VecConfig
from modeling_d2v.local_encoders import LayerShape
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.modality_encoders import LOCAL_ENCODERS


class BatchShape(NamedTuple):
    """What the work of a micro-batch depends on."""

    samples: int
    """B."""
    inputs: tuple[int, ...]
    """Shape of the inputs, batch left out."""
    grid: tuple[int, ...]
    """Tokens down and across; T alone where they lie in a line."""
    masks: int
    """M."""
    visible: int
    """V."""
    masked: int
    """N."""

    @property
    def tokens(self) -> int:
        """T."""
        return math.prod(self.grid)


class StepFlops:
    """Operations of a micro-batch.

    Args:
        config: of the model.
    """

    def __init__(self, config: Data2VecConfig):
        self.config = config
        self.drop = config.masked_tokens == "dropped"

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Operations of all parts together, for a collated batch on the CPU."""
        return sum(self.parts(modality, self.shape(modality, inputs)).values())

    def shape(self, modality: str, inputs: dict[str, Tensor]) -> BatchShape:
        """Shape of a collated batch: the input, "mask" (B, M, T), and "attention_mask" where something is padded."""
        settings = self.config.modality_config(modality)
        mask, values = inputs["mask"], inputs[MODALITIES[modality].input_name]
        samples, masks, tokens = mask.shape
        visible = tokens - mask.sum(dim=2)
        real = inputs.get("attention_mask")
        if real is not None and not self.config.fairseq_compatible_padding:
            visible = visible - (tokens - settings.num_tokens(real.sum(dim=1)))[:, None]
        shape = tuple(values.shape[1:])
        grid = settings.token_grid(shape) or (tokens,)
        return BatchShape(samples, shape, grid, masks, max(int(visible.max()), 1), int(mask.sum()))

    def parts(self, modality: str, shape: BatchShape, gradients: bool = True) -> dict[str, int]:
        """Operations by part: front end, student blocks, decoder (each with its gradients, if any), and teacher."""
        settings, width = self.config.modality_config(modality), self.config.hidden_size
        front_end = LOCAL_ENCODERS[modality][settings.front_end]
        layers = front_end.layers(settings, width, shape.inputs)
        fixed = shape.samples * sum(map(_layer, (layer for layer in layers if not layer.trained)))
        trained = [shape.samples * _layer(layer) for layer in layers if layer.trained]
        positions = sum(map(_layer, front_end.position_layers(settings, width, shape.tokens)))
        rows = shape.samples * shape.masks
        length = settings.num_extra_tokens + (shape.visible if self.drop else shape.tokens)
        teacher = shape.samples * (positions + self._blocks(modality, settings.num_extra_tokens + shape.tokens))
        if settings.ema_scope == "all":
            teacher += fixed + sum(trained)
        passes = 3 if gradients else 1
        # The gradient of the first layer's input is not needed.
        unneeded = sum(trained[:1]) if gradients else 0
        return {
            "front end": fixed + passes * (sum(trained) + rows * positions) - unneeded,
            "student": passes * rows * self._blocks(modality, length),
            "decoder": passes * self._decoder(modality, shape),
            "teacher": teacher,
        }

    def _blocks(self, modality: str, length: int) -> int:
        """Prenet and shared blocks on one row of `length` tokens."""
        config = self.config
        linear = 2 * length * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
        attention = 4 * length * length * config.hidden_size
        return (config.modality_config(modality).prenet_depth + config.num_hidden_layers) * (linear + attention)

    def _decoder(self, modality: str, shape: BatchShape) -> int:
        """Decoder at all places, its projection at the masked ones."""
        settings, width, total = self.config.modality_config(modality), self.config.hidden_size, 0
        if self.drop:
            for _ in range(settings.decoder_layers):
                one = _convolution(
                    shape.grid,
                    settings.decoder_kernel_size,
                    width,
                    settings.decoder_hidden_size,
                    settings.decoder_groups,
                )
                total += shape.samples * shape.masks * one
                width = settings.decoder_hidden_size
        return total + shape.masked * projection(settings, width, self.config.hidden_size)


def projection(settings: Any, width: int, after: int) -> int:
    """The layers that lead from the width of a decoder to that of the targets, of one token.

    Args:
        settings: configuration of the modality.
        width: that they start from.
        after: that they end with.
    """
    layers, hidden = settings.decoder_projection_layers, int(width * settings.decoder_projection_ratio)
    widths = [width, *[hidden] * (layers - 1), after] if layers else []
    return sum(2 * one * other for one, other in itertools.pairwise(widths))


def _layer(layer: LayerShape) -> int:
    """A layer of a front end, on one input."""
    return 2 * layer.places * layer.inputs * layer.outputs


def _convolution(places: tuple[int, ...], kernel: int, inputs: int, outputs: int, groups: int) -> int:
    """A convolution over time or over a grid that keeps the size; an even kernel computes one place more a side."""
    total = 2 * inputs * outputs // groups
    for length in places:
        total *= (length + 1 - kernel % 2) * kernel
    return total
