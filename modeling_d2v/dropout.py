"""Dropout whose random numbers are cheap on a CPU, where PyTorch draws one at a time."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


LEVELS = 1 << 16


def draw_kept(shape: torch.Size, threshold: int) -> Tensor:
    """Draw which elements are kept, each with probability 1 - threshold / 65536, from the global generator.

    Four elements share a draw of 64 bits: a fifth of the time of `bernoulli_`, which is serial.

    Returns:
        Boolean tensor of `shape` on the CPU.
    """
    count = shape.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device="cpu").random_(-(2**63), None)
    return (bits.view(torch.int16)[:count] >= threshold - LEVELS // 2).view(shape)


class DropoutByBits(torch.autograd.Function):
    """Dropout on a CPU; what it keeps for the backward pass is one byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        kept = draw_kept(x.shape, threshold)
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - threshold)
        return x.mul(kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept).mul_(ctx.scale), None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Set elements to zero with probability `p` and scale the others by 1 / (1 - p), in training.

    On a CPU, `p` is rounded to a multiple of 1 / 65536.
    """
    threshold = round(p * LEVELS)
    plain = x.device.type != "cpu" or not 0 < threshold < LEVELS
    if plain or not training or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.dropout(x, p, training)
    return DropoutByBits.apply(x, threshold)


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)
