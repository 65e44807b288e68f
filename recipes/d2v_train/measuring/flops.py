"""Floating point operations of a training step, from the configuration and the shape of a batch.

Blocks and decoder are counted by formula, as what they leave out depends on the masks; front ends by PyTorch.

Matrix products and convolutions are counted, with two operations per multiply-add: student and teacher forward, and
twice the student's for its gradients. Norms, activations, masks, the optimizer and recomputation by gradient
checkpointing or fused attention are not counted: this is the work of the method, padding included. The accelerator is
not used.

Shapes: B samples, M masks per sample, T tokens, V visible tokens (the most of the batch), E extra tokens, D hidden
size, N predicted tokens over all samples and masks.
"""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modeling_d2v import Data2VecConfig
from modeling_d2v.configuration_data2vec import SHARED_DECODER
from modeling_d2v.local_encoders import TextLocalEncoder
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.modality_encoders import LOCAL_ENCODERS
from modeling_d2v.objective import num_predicted
from modeling_d2v.positions import ConvPositions


class BatchShape(NamedTuple):
    """Sizes that determine the operations of a micro-batch."""

    samples: int
    """B."""
    inputs: tuple[int, ...]
    """Of one input: samples of the longest waveform, tokens of the longest text, or channels, height and width."""
    grid: tuple[int, ...]
    """Tokens down and across, or T alone where they lie in a line."""
    masks: int
    """M."""
    visible: int
    """V."""
    predicted: int
    """N."""

    @property
    def tokens(self) -> int:
        """Return T, the number of tokens."""
        return math.prod(self.grid)


class FrontEndFlops:
    """Operations of a front end on one sample, as PyTorch counts them on a copy without memory (the meta device).

    Those on a sequence are linear in its length, so two lengths determine them.

    Args:
        config: of the model.
        modality: of the front end.
    """

    def __init__(self, config: Data2VecConfig, modality: str):
        settings = config.modality_config(modality)
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            encoder = LOCAL_ENCODERS[modality][settings.front_end](config, settings)
            positions = encoder.make_positions(config)
        self._encoder = encoder.to("meta").requires_grad_(False)  # parameters are inputs of modules too
        self._convolutions = list(positions.convs) if isinstance(positions, ConvPositions) else []
        self._longest = settings.max_position_embeddings if modality == "text" else math.inf
        self._known: dict[tuple[int, ...], np.ndarray] = {}
        self._line: tuple[np.ndarray, np.ndarray] | None = None

    def local(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return the operations before the first layer, of it and after it, on an input of `shape`, batch left out."""
        if isinstance(self._encoder, TextLocalEncoder):
            return 0, 0, 0  # tables are looked up
        if len(shape) > 1:
            if shape not in self._known:
                self._known[shape] = self._count(shape)
            return tuple(map(round, self._known[shape]))
        (length,) = shape
        if self._line is None:
            other = 2 * length if 2 * length <= self._longest else length // 2
            once, again = self._count(shape), self._count((other,))
            slope = (again - once) / (other - length)
            self._line = once - slope * length, slope
        start, slope = self._line
        return tuple(map(round, start + slope * length))

    def positions(self, tokens: int) -> int:
        """Return the operations of convolutional positions on one row."""
        sizes = [(conv.weight.numel(), conv.kernel_size[0]) for conv in self._convolutions]
        return sum(2 * count * _places(tokens, kernel) for count, kernel in sizes)

    @torch.no_grad()
    def _count(self, shape: tuple[int, ...]) -> np.ndarray:
        marks: list[int] = []

        def mark(*_: Any) -> None:
            marks.append(counter.get_total_flops())

        layer = self._encoder.first_layer
        hooks = layer.register_forward_pre_hook(mark), layer.register_forward_hook(mark)
        with FlopCounterMode(display=False) as counter:
            kind = torch.long if isinstance(layer, nn.Embedding) else torch.float
            self._encoder(torch.empty(1, *shape, device="meta", dtype=kind), None)
        for hook in hooks:
            hook.remove()
        return np.diff([0, *marks, counter.get_total_flops()]).astype(float)


class StepFlops:
    """Counter of the operations of a micro-batch.

    Args:
        config: Configuration of the model.
        frozen_blocks: Whether the shared blocks of the student are frozen: their weights need no gradients.
    """

    def __init__(self, config: Data2VecConfig, frozen_blocks: bool = False):
        self.config, self.frozen_blocks = config, frozen_blocks
        self.drop = config.masked_tokens == "dropped"
        self.front_ends: dict[str, FrontEndFlops] = {}

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        """Return the operations of all parts, for a collated batch on the CPU."""
        return sum(self.parts(modality, self.shape(modality, inputs)).values())

    def shape(self, modality: str, inputs: dict[str, Tensor]) -> BatchShape:
        """Return the shape of a collated batch: input, "mask" (B, M, T), and "attention_mask" if there is padding."""
        settings = self.config.modality_config(modality)
        mask, values = inputs["mask"], inputs[MODALITIES[modality].input_name]
        samples, masks, tokens = mask.shape
        visible = tokens - mask.sum(dim=2)
        real = inputs.get("attention_mask")
        if real is not None and not self.config.fairseq_compatible_padding:
            visible = visible - (tokens - settings.num_tokens(real.sum(dim=1)))[:, None]
        inputs = tuple(values.shape[1:])
        grid = settings.token_grid(inputs) or (tokens,)
        return BatchShape(samples, inputs, grid, masks, max(int(visible.max()), 1), int(num_predicted(settings, mask)))

    def parts(self, modality: str, shape: BatchShape, gradients: bool = True) -> dict[str, int]:
        """Return operations by part: front end, student blocks, decoder (with gradients, if any), and teacher."""
        settings = self.config.modality_config(modality)
        if modality not in self.front_ends:
            self.front_ends[modality] = FrontEndFlops(self.config, modality)
        front_end = self.front_ends[modality]
        before, first, after = (shape.samples * count for count in front_end.local(shape.inputs))
        positions = front_end.positions(shape.tokens)
        rows, seen = shape.samples * shape.masks, shape.visible
        length = settings.num_extra_tokens + latents(settings, shape, seen if self.drop else shape.tokens)
        whole = settings.num_extra_tokens + latents(settings, shape, shape.tokens)
        teacher = shape.samples * (positions + self._blocks(modality, whole))
        elements = shape.samples * element_flops(settings, shape)
        read = rows * read_flops(settings, shape, seen, length, self.config.hidden_size)
        teacher += elements + shape.samples * read_flops(settings, shape, shape.tokens, whole, self.config.hidden_size)
        if settings.ema_scope == "all":
            teacher += before + first + after
        passes = 3 if gradients else 1
        saved = rows * self.config.num_hidden_layers * self._linear(length) if self.frozen_blocks and gradients else 0
        return {
            # The gradient of the first layer's input is not needed.
            "front end": before
            + passes * (first + after + rows * positions + elements + read)
            - (first if gradients else 0),
            "student": passes * rows * self._blocks(modality, length) - saved,
            "decoder": passes * self._decoder(modality, shape),
            "teacher": teacher,
        }

    def _blocks(self, modality: str, length: int) -> int:
        """Return the operations of prenet and shared blocks for one row of `length` tokens."""
        config = self.config
        attention = 4 * length * length * config.hidden_size
        depth = config.modality_config(modality).prenet_depth + config.num_hidden_layers
        return depth * (self._linear(length) + attention)

    def _linear(self, length: int) -> int:
        """Return the operations of the linear layers of a block for one row."""
        config = self.config
        return 2 * length * config.hidden_size * (4 * config.hidden_size + 2 * config.intermediate_size)

    def _decoder(self, modality: str, shape: BatchShape) -> int:
        """Return the operations of the decoder at all positions and its projections at the predicted ones."""
        settings, width, total = self.config.modality_config(modality), self.config.hidden_size, 0
        rows, inner = shape.samples * shape.masks, settings.decoder_hidden_size
        mlp = 4 * inner * (settings.decoder_intermediate_size or 4 * inner)
        if self.drop and settings.decoder_type == "transformer":
            block = shape.tokens * (8 * inner**2 + mlp) + 4 * shape.tokens**2 * inner
            total += rows * (2 * shape.tokens * width * inner + settings.decoder_layers * block)
            width = inner
        elif self.drop and settings.decoder_type == "cross_attention":
            visible = latents(settings, shape, shape.visible)
            block = shape.predicted * (4 * inner**2 + mlp + 4 * visible * inner)
            block += rows * visible * 4 * width * inner
            total += 2 * shape.predicted * width * inner + settings.decoder_layers * block
            width = inner
        elif self.drop:
            for _ in range(settings.decoder_layers):
                kernel, groups = settings.decoder_kernel_size, settings.decoder_groups
                total += rows * _convolution(shape.grid, kernel, width, inner, groups)
                width = inner
        pixels = settings.patch_values if getattr(settings, "reconstruction_loss_weight", 0) else 0
        outputs = projection(settings, width, self.config.hidden_size) + 2 * self.config.hidden_size * pixels
        return total + shape.predicted * outputs + (self._shared_decoder(shape) if self.config.shared_decoder else 0)

    def _shared_decoder(self, shape: BatchShape) -> int:
        """Return the operations of the decoder that modalities share, over the sequence of all positions."""
        fields = SimpleNamespace(**{**SHARED_DECODER, **self.config.shared_decoder})
        width, total = self.config.hidden_size, 0
        for _ in range(fields.decoder_layers):
            kernel, groups = fields.decoder_kernel_size, fields.decoder_groups
            one = _convolution((shape.tokens,), kernel, width, fields.decoder_hidden_size, groups)
            total += shape.samples * shape.masks * one
            width = fields.decoder_hidden_size
        return total + shape.predicted * projection(fields, width, self.config.hidden_size)


def latents(settings: Any, shape: BatchShape, groups: int) -> int:
    """Return the tokens in the blocks for `groups` groups; of cells at most all, as some are masked as a whole."""
    if settings.latents_are_tokens:
        return groups
    if not settings.anchors:
        return settings.num_latents
    return min(groups, math.prod(-(-side // settings.latent_stride) for side in shape.grid))


def element_flops(settings: Any, shape: BatchShape) -> int:
    """Return the operations, per sample, of keys and values of the elements that latents read; 0 without such."""
    if not settings.is_perceiver or settings.grouping != "global":
        return 0
    size, elements = settings.latent_size, shape.tokens * settings.group_size
    return 4 * elements * size**2


def read_flops(settings: Any, shape: BatchShape, groups: int, count: int, width: int) -> int:
    """Return the operations, per row, of `count` latents that read the elements of `groups` groups."""
    if not settings.is_perceiver or settings.grouping != "global":
        return 0
    size = settings.latent_size
    own = 2 * size**2 * 2 + 8 * size**2 + 2 * size * width
    return count * (own + 4 * groups * settings.group_size * size)


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
        total *= _places(length, kernel) * kernel
    return total


def _places(length: int, kernel: int) -> int:
    """Places of a convolution that keeps the length; an even kernel computes one more."""
    return length + 1 - kernel % 2
