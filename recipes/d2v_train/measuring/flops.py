"""Floating point operations of a training step, from the configuration and the shape of a batch.

Matrix products and convolutions are counted, with two operations per multiply-add: student and teacher forward, and
twice the student's for its gradients. Norms, activations, masks, the optimizer and recomputation by gradient
checkpointing or fused attention are not counted: this is the work of the method, padding included. The accelerator is
not used.

Shapes: B samples, M masks per sample, T tokens, V visible tokens (the most of the batch), E extra tokens, D hidden
size, N masked tokens over all samples and masks.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from torch import Tensor

from modeling_d2v import Data2VecConfig
from modeling_d2v.modalities import MODALITIES


class BatchShape(NamedTuple):
    """Sizes that determine the operations of a micro-batch."""

    samples: int
    """B."""
    size: int
    """Samples of the longest waveform; tokens of the longest text; 0 for images."""
    grid: tuple[int, int]
    """Tokens down and across; 1 x T for text and audio."""
    masks: int
    """M."""
    visible: int
    """V."""
    masked: int
    """N."""

    @property
    def tokens(self) -> int:
        """Return T, the number of tokens."""
        return self.grid[0] * self.grid[1]


class StepFlops:
    """Counter of the operations of a micro-batch.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: Data2VecConfig):
        self.config = config
        self.drop = config.masked_tokens == "dropped"

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Return the operations of all parts, for a collated batch on the CPU."""
        return sum(self.parts(modality, self.shape(modality, inputs)).values())

    def shape(self, modality: str, inputs: dict[str, Tensor]) -> BatchShape:
        """Return the shape of a collated batch: input, "mask" (B, M, T), and "attention_mask" if there is padding."""
        mask, values = inputs["mask"], inputs[MODALITIES[modality].input_name]
        samples, masks, tokens = mask.shape
        visible = tokens - mask.sum(dim=2)
        real = inputs.get("attention_mask")
        if real is not None and not self.config.fairseq_compatible_padding:
            lengths = real.sum(dim=1)
            lengths = self.config.audio_config.num_frames(lengths) if modality == "audio" else lengths
            visible = visible - (tokens - lengths)[:, None]
        grid, size = (1, tokens), values.shape[-1]
        if modality == "vision":
            grid, size = self.config.vision_config.grid_size(*values.shape[-2:]), 0
        return BatchShape(samples, size, grid, masks, max(int(visible.max()), 1), int(mask.sum()))

    def parts(self, modality: str, shape: BatchShape, gradients: bool = True) -> dict[str, int]:
        """Return operations by part: front end, student blocks, decoder (with gradients, if any), and teacher."""
        settings = self.config.modality_config(modality)
        first, local = self._local_encoder(modality, shape)
        positions = self._positions(modality, shape.tokens)
        rows = shape.samples * shape.masks
        length = settings.num_extra_tokens + (shape.visible if self.drop else shape.tokens)
        teacher = shape.samples * (positions + self._blocks(modality, settings.num_extra_tokens + shape.tokens))
        if settings.ema_scope == "all":
            teacher += first + local
        passes = 3 if gradients else 1
        return {
            # The gradient of the first layer's input is not needed.
            "front end": passes * (first + local + rows * positions) - (first if gradients else 0),
            "student": passes * rows * self._blocks(modality, length),
            "decoder": passes * self._decoder(modality, shape),
            "teacher": teacher,
        }

    def _local_encoder(self, modality: str, shape: BatchShape) -> tuple[int, int]:
        """Return the operations of one pass: those of the first layer, and of the others."""
        width, settings = self.config.hidden_size, self.config.modality_config(modality)
        if modality == "text":
            return 0, 0  # tables
        if modality == "vision":
            inner = settings.embed_dim or width
            patches = shape.samples * shape.tokens
            expand = 2 * patches * inner * width if inner != width else 0
            return 2 * patches * settings.num_channels * settings.patch_size**2 * inner, expand
        layers, length, before = [], shape.size, 1
        for channels, kernel, stride in zip(
            settings.conv_dim, settings.conv_kernel, settings.conv_stride, strict=True
        ):
            length = (length - kernel) // stride + 1
            layers.append(2 * shape.samples * length * before * kernel * channels)
            before = channels
        return layers[0], sum(layers[1:]) + 2 * shape.samples * length * before * width

    def _positions(self, modality: str, tokens: int) -> int:
        """Return the operations of convolutional positions for one row."""
        settings, width = self.config.modality_config(modality), self.config.hidden_size
        if modality != "audio" or not settings.conv_pos_depth:
            return 0
        kernel = max(3, settings.conv_pos_width // settings.conv_pos_depth)
        return settings.conv_pos_depth * _convolution((tokens,), kernel, width, width, settings.conv_pos_groups)

    def _blocks(self, modality: str, length: int) -> int:
        """Return the operations of prenet and shared blocks for one row of `length` tokens."""
        config = self.config
        linear = 2 * length * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)
        attention = 4 * length * length * config.hidden_size
        return (config.modality_config(modality).prenet_depth + config.num_hidden_layers) * (linear + attention)

    def _decoder(self, modality: str, shape: BatchShape) -> int:
        """Return the operations of the decoder at all positions and its projection at the masked ones."""
        settings, width, total = self.config.modality_config(modality), self.config.hidden_size, 0
        places = shape.grid if modality == "vision" else (shape.tokens,)
        if self.drop:
            for _ in range(settings.decoder_layers):
                one = _convolution(
                    places, settings.decoder_kernel_size, width, settings.decoder_hidden_size, settings.decoder_groups
                )
                total += shape.samples * shape.masks * one
                width = settings.decoder_hidden_size
        return total + shape.masked * projection(settings, width, self.config.hidden_size)


def projection(settings: Any, width: int, after: int) -> int:
    """Return the operations, per token, of the layers from the width of a decoder to that of the targets.

    Args:
        settings: Configuration of the modality.
        width: Input width of the layers.
        after: Output width of the layers.
    """
    layers, hidden = settings.decoder_projection_layers, int(width * settings.decoder_projection_ratio)
    widths = [width, *[hidden] * (layers - 1), after] if layers else []
    return sum(2 * one * other for one, other in itertools.pairwise(widths))


def _convolution(places: tuple[int, ...], kernel: int, inputs: int, outputs: int, groups: int) -> int:
    """Return the operations of a convolution that keeps the size; an even kernel computes one place more per side."""
    total = 2 * inputs * outputs // groups
    for length in places:
        total *= (length + 1 - kernel % 2) * kernel
    return total
