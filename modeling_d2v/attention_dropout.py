"""Attention whose weights are dropped out, for training on a CPU.

PyTorch's fused attention for CPUs has no dropout; the plain one keeps four tensors of every score for the backward
pass. Here it keeps one byte of every score, and computes the weights a second time.

Shapes: B samples, H heads, T tokens, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import LEVELS, draw_kept


def attention_scores(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return scores (B, H, T, T), with a boolean mask (True = attended to) or an additive one."""
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        # Not -inf: a row without any real token attends to everything instead of becoming NaN.
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask)


class AttentionWithDropout(torch.autograd.Function):
    """softmax(q k / sqrt(d) + mask), dropped out, times v."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, threshold: int
    ) -> Tensor:
        scores = attention_scores(query, key, mask, scaling)
        total = scores.logsumexp(dim=-1, keepdim=True)
        weights = scores.sub_(total).exp_()
        kept = draw_kept(weights.shape, threshold)
        ctx.scaling, ctx.keep_scale = scaling, LEVELS / (LEVELS - threshold)
        ctx.save_for_backward(query, key, value, mask, total, kept)
        return torch.matmul(weights.mul_(kept), value).mul_(ctx.keep_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, total, kept = ctx.saved_tensors
        weights = attention_scores(query, key, mask, ctx.scaling).sub_(total).exp_()
        gradient = gradient * ctx.keep_scale
        of_value = torch.matmul(weights.mul(kept).transpose(-2, -1), gradient)
        of_weights = torch.matmul(gradient, value.transpose(-2, -1)).mul_(kept)
        of_scores = of_weights.mul_(weights)
        of_scores = of_scores.sub_(weights.mul_(of_scores.sum(dim=-1, keepdim=True)))
        of_mask = of_scores.sum_to_size(mask.shape) if ctx.needs_input_grad[3] else None
        of_query = torch.matmul(of_scores, key).mul_(ctx.scaling)
        of_key = torch.matmul(of_scores.transpose(-2, -1), query).mul_(ctx.scaling)
        return of_query, of_key, of_value, of_mask, None, None


def drops_out_here(query: Tensor, dropout: float) -> bool:
    """Return whether `attention_with_dropout` takes the place of PyTorch's attention."""
    if query.device.type != "cpu" or query.dtype != torch.float32 or not 0 < round(dropout * LEVELS) < LEVELS:
        return False
    return torch.is_grad_enabled() and not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def attention_with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float
) -> Tensor:
    """Map query, key, value (B, H, T, d) to the output (B, T, H, d).

    Args:
        query, key, value: In fp32, on a CPU.
        mask: Broadcasts to (B, H, T, T): boolean with True = attended to, or additive.
        dropout: Probability of a weight to be set to zero, rounded to a multiple of 1 / 65536.
        scaling: Factor of the scores.
    """
    threshold = round(dropout * LEVELS)
    return AttentionWithDropout.apply(query, key, value, mask, scaling, threshold).transpose(1, 2)
