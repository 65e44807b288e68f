"""How much memory a training step takes, from the configuration and the shape of a micro-batch.

Weights, teacher, gradients and AdamW's two moments are exact: 4 bytes an element each, divided among the processes
where an engine divides them. Activations are what autograd keeps until the backward pass, counted tensor by tensor.
What lives shorter (the teacher's pass, buffers, workspaces of libraries, fragments) is not in the sum, nor is what the
process held before, above all libraries and data. `docs/pretraining.md` compares it with measured peaks.

Shapes: as in `flops.py`. Rows are samples times masks; lengths are extra tokens and those that the student sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from d2v_train.measuring.flops import BatchShape
from modeling_d2v import Data2VecConfig
from modeling_d2v.modality_encoders import LOCAL_ENCODERS


FULL = 4
"""Bytes of an element in fp32, in which weights, norms and losses are kept in every precision."""


def state_bytes(model: nn.Module, mixed: bool = False, shards: int = 1) -> dict[str, int]:
    """Bytes of what stays from step to step, by part.

    Args:
        model: a pretraining model.
        mixed: whether autocast keeps copies of the weights in half precision during a step.
        shards: processes that an engine divides everything among; 1 where each holds all of it.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = sum(parameter.numel() for parameter in model.parameters()) - trained
    parts = {
        "weights": FULL * trained,
        "teacher": FULL * fixed,
        "gradients": FULL * trained,
        "optimizer": 2 * FULL * trained,
    }
    if mixed:
        parts["weights in half precision"] = 2 * trained
    return {name: count // shards for name, count in parts.items()}


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps for the backward pass of a micro-batch.

    Args:
        config: of the model.
        mixed: whether matrix products run in half precision.
        on_cpu: whether attention and dropout run as they do on CPUs, which keep more.
        recompute: whether blocks are computed again in the backward pass.
    """

    config: Data2VecConfig
    mixed: bool = False
    on_cpu: bool = True
    recompute: bool = False

    @property
    def half(self) -> int:
        """Bytes of an element that goes into a matrix product."""
        return 2 if self.mixed else FULL

    def __call__(self, modality: str, shape: BatchShape) -> int:
        """Bytes of all parts together."""
        return sum(self.parts(modality, shape).values())

    def parts(self, modality: str, shape: BatchShape) -> dict[str, int]:
        """Bytes by part of the student."""
        return {
            "front end": self._front_end(modality, shape),
            "blocks": self._blocks(modality, shape),
            "decoder": self._decoder(modality, shape),
        }

    def _conv_norm_gelu(self, channels: int) -> int:
        """Of a convolution with norm and activation, a place: what norm, activation and next layer read."""
        # Autocast takes norms to fp32 on accelerators, and leaves them in half precision on CPUs.
        return channels * (3 * self.half if self.on_cpu else 2 * FULL + self.half)

    def _front_end(self, modality: str, shape: BatchShape) -> int:
        config, mine = self.config, self.config.modality_config(modality)
        width, rows = config.hidden_size, shape.samples * shape.masks
        # Embeddings, or projected features, with the norm behind them.
        total = shape.samples * shape.tokens * width * 2 * FULL
        encoder = LOCAL_ENCODERS[modality][mine.front_end]
        layers = encoder.layers(mine, width, shape.inputs)
        for before, layer in zip([None, *layers], layers, strict=False):
            if layer.normed:
                total += shape.samples * layer.places * self._conv_norm_gelu(layer.outputs)
            if layer.trained and before is not None and not before.trained:
                # Read to train this layer, and kept by no other one.
                total += shape.samples * layer.places * layer.inputs * self.half
        positions, places = encoder.position_layers(mine, width, shape.tokens), rows * shape.tokens
        if positions:
            total += places * width * FULL + places * len(positions) * self._conv_norm_gelu(width)
        return total

    def _blocks(self, modality: str, shape: BatchShape) -> int:
        config, mine = self.config, self.config.modality_config(modality)
        kept = shape.visible if config.masked_tokens == "dropped" else shape.tokens
        length, rows = mine.num_extra_tokens + kept, shape.samples * shape.masks
        depth = mine.prenet_depth + config.num_hidden_layers
        block = rows * (length * self._block_token() + self._attention_matrix(modality, length))
        shared = rows * self._bias(modality, length)
        if mine.alibi_scale_per_layer:
            shared *= depth
        if self.recompute:
            return depth * rows * length * config.hidden_size * FULL + block + shared
        return depth * block + shared

    def _block_token(self) -> int:
        """Of one token in one block."""
        config, half = self.config, self.half
        width, inner = config.hidden_size, config.intermediate_size
        # Inputs of the four linear layers, of attention (q, k, v), of the activation, and of the two norms.
        total = half * (width + 3 * width + width + width + 2 * inner) + FULL * 2 * width
        if config.layer_scale_init_value is not None:
            total += 2 * width * half
        noise = half if self.on_cpu else 1
        for rate, size in (
            (config.hidden_dropout, width),
            (config.mlp_dropout, width),
            (config.activation_dropout, inner),
        ):
            total += noise * size if rate else 0
        return total

    def _is_fused(self, modality: str) -> bool:
        """Whether a kernel spares the attention weights; that of CPUs takes neither dropout nor a learned bias."""
        mine = self.config.modality_config(modality)
        learned = mine.alibi == "learned" or getattr(mine, "relative_position_bias", False)
        return not self.on_cpu or not (learned or self.config.attention_dropout)

    def _attention_matrix(self, modality: str, length: int) -> int:
        """Of one row in one block: the weights, with dropout also its noise and its result."""
        if self._is_fused(modality):
            return 0
        return FULL * self.config.num_attention_heads * length**2 * (3 if self.config.attention_dropout else 1)

    def _bias(self, modality: str, length: int) -> int:
        """Of one row: distances between tokens, and the bias of all heads where the kernel keeps it."""
        if self.config.modality_config(modality).alibi is None:
            return 0
        return length**2 * (FULL + (self.config.num_attention_heads * self.half if self._is_fused(modality) else 0))

    def _decoder(self, modality: str, shape: BatchShape) -> int:
        config, mine, half = self.config, self.config.modality_config(modality), self.half
        width = config.hidden_size
        total = shape.samples * shape.tokens * width * FULL  # targets
        if config.masked_tokens == "dropped":
            places = shape.samples * shape.masks * shape.tokens
            total += places * width * half
            total += places * mine.decoder_layers * self._conv_norm_gelu(mine.decoder_hidden_size)
            width = mine.decoder_hidden_size if mine.decoder_layers else width
        inner = int(width * mine.decoder_projection_ratio) * max(mine.decoder_projection_layers - 1, 0)
        return total + shape.masked * (half * (width + 2 * inner) + 2 * FULL * config.hidden_size)


def current_memory(device: torch.device) -> int | None:
    """Bytes held now: of the accelerator where there is one, else of the process; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None


def free_memory(device: torch.device) -> int | None:
    """Bytes of the machine that a process on a CPU can still get; None elsewhere, or where nothing tells.

    Accelerators refuse what does not fit. On a CPU the system ends the process instead, without a word.
    """
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
