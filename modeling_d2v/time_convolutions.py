"""Convolutions over time in the layout of norms and linear layers, and how they are differentiated on a CPU.

Shapes: B samples, T input steps, L output steps, C input and C' output channels, k kernel, s stride.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """Convolve x (B, T, C) with weight (C', C / groups, k) over time; returns (B, L, C').

    It runs as a 2-D convolution of one row in the channels-last layout, without transposing in memory.
    """
    rows, kernel = x.transpose(1, 2).unsqueeze(2), weight.unsqueeze(2)  # (B, C, 1, T), (C', C / groups, 1, k)
    out = F.conv2d(rows, kernel, bias, stride=(1, stride), padding=(0, padding), groups=groups)
    return out.squeeze(2).transpose(1, 2)


def tap_windows(x: Tensor, first: int, taps: int, stride: int, length: int) -> Tensor:
    """Return what `taps` neighbouring taps of a kernel see of a contiguous x (B, T, C): a view (B, L, taps * C)."""
    samples, _, channels = x.shape
    strides = (x.stride(0), stride * channels, 1)
    return x.as_strided((samples, length, taps * channels), strides, x.storage_offset() + first * channels)


class ConvolutionByTaps(torch.autograd.Function):
    """`convolve` of one group whose gradients are matrix products.

    Up to `stride` neighbouring taps see disjoint steps, so one product over a view of the input covers them; the
    remaining taps are added to it. No copy of the windows is made, and the rate is that of a matrix product on every
    processor, while the backward pass of the 2-D convolution is several times slower where there is no AVX-512.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        return convolve(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        outputs, channels, kernel = weight.shape
        samples, length, _ = gradient.shape
        gradient = gradient.contiguous()
        padded = F.pad(x, (0, 0, ctx.padding, ctx.padding)).contiguous()
        by_tap = weight.permute(2, 1, 0).reshape(kernel * channels, outputs)
        x_gradient = torch.zeros_like(padded) if needs_x else None
        weight_gradient = torch.empty_like(by_tap) if needs_weight else None
        for first in range(0, kernel, min(ctx.stride, kernel)):
            taps = min(ctx.stride, kernel - first)
            rows = slice(first * channels, (first + taps) * channels)
            if x_gradient is not None:
                seen = tap_windows(x_gradient, first, taps, ctx.stride, length)
                seen.baddbmm_(gradient, by_tap[rows].t().expand(samples, -1, -1))
            if weight_gradient is not None:
                seen = tap_windows(padded, first, taps, ctx.stride, length)
                weight_gradient[rows] = torch.bmm(seen.transpose(1, 2), gradient).sum(0)
        if x_gradient is not None:
            x_gradient = x_gradient[:, ctx.padding : ctx.padding + x.shape[1]]
        if weight_gradient is not None:
            weight_gradient = weight_gradient.view(kernel, channels, outputs).permute(2, 1, 0)
        return x_gradient, weight_gradient, gradient.sum((0, 1)) if needs_bias else None, None, None


def differentiates_by_taps(stride: int) -> bool:
    """Return whether the gradients of a convolution are computed tap by tap on this processor.

    Where there is AVX-512, the backward pass of a 2-D convolution of stride 1 runs at the rate of a matrix product.
    """
    return stride > 1 or torch.backends.cpu.get_cpu_capability() != "AVX512"


class TimeConv1d(nn.Conv1d):
    """Convolution over time with input and output (B, T, C), the layout of norms and linear layers."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        # One channel leaves nothing to multiply; groups would be products of a few channels each.
        self.by_taps = self.groups == 1 and in_channels > 1 and differentiates_by_taps(self.stride[0])

    def forward(self, x: Tensor) -> Tensor:
        options = self.stride[0], self.padding[0]
        if self.by_taps and self._trains_in_fp32(x):
            return ConvolutionByTaps.apply(x, self.weight, self.bias, *options)
        return convolve(x, self.weight, self.bias, *options, self.groups)

    def _trains_in_fp32(self, x: Tensor) -> bool:
        """Return whether gradients in fp32 on a CPU will be wanted, by PyTorch's own interpreter."""
        if x.dtype != torch.float32 or x.device.type != "cpu" or not torch.is_grad_enabled():
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
            return False
        return x.requires_grad or self.weight.requires_grad


class SameConv1d(TimeConv1d):
    """Convolution over time that keeps the length: padding k // 2, the last step dropped for even kernels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out[:, :-1] if self.kernel_size[0] % 2 == 0 else out
