"""Positions of tokens: sin-cos tables, ALiBi, relative position bias, convolutional positions.

Shapes: B batch (samples, or samples times masks), T tokens, V visible tokens, E extra tokens, D width, H heads,
L layers, h x w grid of patches. Token indices are (B, V) or (1, V) positions in the full sequence.
"""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .time_convolutions import SameConv1d


# Everything but the blocks and the context norm uses this epsilon in the reference.
FIXED_EPS = 1e-5


def sincos_2d(dim: int, grid: tuple[int, int], base_grid: tuple[int, int] | None = None) -> Tensor:
    """Return fixed 2-D sin-cos positions (He et al. 2022): half of the channels for columns, half for rows.

    Args:
        dim: D, a multiple of 4.
        grid: (h, w) patches.
        base_grid: The grid that the weights were trained on. Coordinates are scaled to it, which interpolates the
            table for images of another size.

    Returns:
        (h * w, D) float32.
    """
    coordinates = []
    for size, base in zip(grid, base_grid or grid, strict=True):
        places = torch.arange(size, dtype=torch.float64)
        coordinates.append((places + 0.5) * (base / size) - 0.5)
    rows, columns = torch.meshgrid(*coordinates, indexing="ij")
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [axis.flatten()[:, None] * frequencies for axis in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def same_grid(grid: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two grids are equal, without fixing the image size of an exported program."""
    return not any(isinstance(side, torch.SymInt) for side in grid) and grid == other


def row_and_column(index: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the patches `index`; without a remainder, which ONNX has for constants only."""
    rows = index // width
    return rows, index - rows * width


class SinCosPositions(nn.Module):
    """Table of 2-D sin-cos positions, added to patches before any of them is dropped."""

    def __init__(self, dim: int, base_grid: tuple[int, int]) -> None:
        super().__init__()
        self.dim, self.base_grid = dim, base_grid
        self.register_buffer("table", self.initial_table(), persistent=False)

    def initial_table(self) -> Tensor:
        # Values are needed even where modules are built on the meta device: checkpoints do not hold them.
        with torch.device("cpu"):
            return sincos_2d(self.dim, self.base_grid)

    def forward(self, grid: tuple[int, int], token_mask: Tensor | None = None) -> Tensor:
        """Return the positions (h * w, D) of a grid, interpolated unless it is the configured one."""
        if same_grid(grid, self.base_grid):
            return self.table
        return sincos_2d(self.dim, grid, self.base_grid).to(self.table)


class SinCosTimePositions(SinCosPositions):
    """Sin-cos positions of a grid whose rows are any number of time steps: nothing is interpolated.

    Args:
        dim: D.
        width: Columns of the grid.
        rows: Rows of the stored table; it is recomputed for longer inputs.
    """

    def __init__(self, dim: int, width: int, rows: int = 64) -> None:
        super().__init__(dim, (rows, width))

    def forward(self, grid: tuple[int, int], token_mask: Tensor | None = None) -> Tensor:
        """Return the positions (h * w, D), or (B, h * w, D) with a token mask: time begins at the first real row."""
        kept = not isinstance(grid[0], torch.SymInt) and grid[0] <= self.base_grid[0]
        table = self.table[: grid[0] * grid[1]] if kept else sincos_2d(self.dim, grid).to(self.table)
        return table if token_mask is None else table[(token_mask.long().cumsum(dim=1) - 1).clamp(min=0)]


def text_positions(input_ids: Tensor, pad_token_id: int, token_mask: Tensor | None = None) -> Tensor:
    """Return RoBERTa's position ids (B, T): running count of real tokens plus the pad id; padding has the pad id."""
    real = input_ids.ne(pad_token_id)
    real = (real if token_mask is None else real & token_mask).long()
    return real.cumsum(dim=1) * real + pad_token_id


class SinusoidPositions(nn.Module):
    """Table of sine and cosine positions of a sequence (Vaswani et al. 2017), sines in the first half of the channels.

    Args:
        rows: Positions in the table.
        dim: D; the last channel is zero if it is odd.
        padding_idx: Position of padding, whose row is zero.
    """

    def __init__(self, rows: int, dim: int, padding_idx: int) -> None:
        super().__init__()
        self.rows, self.dim, self.padding_idx = rows, dim, padding_idx
        self.register_buffer("table", self.initial_table(), persistent=False)

    def initial_table(self) -> Tensor:
        with torch.device("cpu"):
            half = self.dim // 2
            frequencies = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000) / max(half - 1, 1)))
            angles = torch.arange(self.rows, dtype=torch.float64)[:, None] * frequencies
            table = torch.cat([angles.sin(), angles.cos(), torch.zeros(self.rows, self.dim % 2)], dim=1).float()
            table[self.padding_idx] = 0
            return table

    def forward(self, positions: Tensor) -> Tensor:
        """Return the rows (B, T, D) of positions (B, T)."""
        return self.table[positions]


def alibi_slopes(num_heads: int) -> list[float]:
    """Return the slopes of ALiBi (Press et al. 2022).

    They are a geometric series for a power of two heads; otherwise that of the next lower power, then every other
    slope of the doubled set.
    """

    def series(n: int) -> list[float]:
        start = 2.0 ** (-8.0 / n)
        return [start ** (i + 1) for i in range(n)]

    power = 2 ** math.floor(math.log2(num_heads))
    return series(power) + series(2 * power)[0::2][: num_heads - power]


def reads_weights(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method other than `forward` that reads weights of its own module.

    Where a module is offloaded, Accelerate fetches its weights for `forward` alone; here it does so for the method.
    """

    @wraps(method)
    def with_weights(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        hook = getattr(self, "_hf_hook", None)
        if hook is None:
            return method(self, *args, **kwargs)
        args, kwargs = hook.pre_forward(self, *args, **kwargs)
        return hook.post_forward(self, method(self, *args, **kwargs))

    return with_weights


class AlibiBias(nn.Module):
    """Symmetric ALiBi: minus the distance of two tokens, times a slope per head, times a scale.

    Args:
        num_heads: H.
        num_layers: L, prenet and shared blocks, for one scale per layer.
        distance: "manhattan" or "euclidean", between patches of a grid, or "sequence", along their sequence.
        learned: Learn the scale (clamped at 0), starting from `scale`.
        biased_heads: Heads that have the bias, the first ones; `None` for all.
    """

    def __init__(
        self,
        num_heads: int,
        num_layers: int,
        *,
        distance: str = "manhattan",
        scale: float = 1.0,
        learned: bool = False,
        per_head: bool = False,
        per_layer: bool = False,
        biased_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.distance, self.initial_scale = num_heads, distance, scale
        self.biased_heads = biased_heads or num_heads
        self.per_layer = learned and per_layer
        shape = (num_layers if per_layer else 1, 1, self.biased_heads if per_head else 1, 1, 1)
        self.scale = nn.Parameter(torch.full(shape, float(scale))) if learned else None
        self.register_buffer("slopes", self.initial_slopes(), persistent=False)

    def initial_slopes(self) -> Tensor:
        with torch.device("cpu"):
            return torch.tensor(alibi_slopes(self.biased_heads)).view(1, -1, 1, 1)

    def forward(self, index: Tensor, grid: tuple[int, int] | None, num_extra: int) -> Tensor:
        """Return the negative distance (B, 1, E + V, E + V) in fp32; it is 0 for extra tokens."""
        if grid is None or self.distance == "sequence":
            distance = (index[:, :, None] - index[:, None, :]).abs().float()
        else:
            rows, columns = row_and_column(index, grid[1])
            down = (rows[:, :, None] - rows[:, None, :]).float()
            across = (columns[:, :, None] - columns[:, None, :]).float()
            # Not `torch.hypot`, which ONNX does not have.
            distance = down.abs() + across.abs() if self.distance == "manhattan" else (down**2 + across**2).sqrt()
        return F.pad(-distance, (num_extra, 0, num_extra, 0))[:, None]

    @reads_weights
    def scaled(self, bias: Tensor, layer: int) -> Tensor:
        """Return the bias (B, H, E + V, E + V) of one layer; prenet layers count first."""
        if self.scale is None:
            factors = self.slopes * self.initial_scale
        else:
            factors = self.slopes * self.scale.clamp(min=0)[layer if self.per_layer else 0]
        if self.biased_heads < self.num_heads:
            factors = F.pad(factors, (0, 0, 0, 0, 0, self.num_heads - self.biased_heads))
        return bias * factors


class RelativePositionBias(nn.Module):
    """Learned bias by relative position in a window of patches (BEiT, data2vec 1.0 vision).

    The table's last three rows are for extra token to patch, patch to extra token, and extra token to itself.

    Args:
        num_heads: H.
        window: Patches down and across that the table is made for.
        num_layers: L, for one table per layer; `None` for one that all layers share.
    """

    def __init__(self, num_heads: int, window: tuple[int, int], num_layers: int | None = None) -> None:
        super().__init__()
        self.window, self.per_layer = window, num_layers is not None
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) + 3
        self.table = nn.Parameter(torch.zeros(*([num_layers] if self.per_layer else []), rows, num_heads))

    def forward(self, index: Tensor, grid: tuple[int, int], num_extra: int) -> Tensor:
        """Return the bias (B, H, E + V, E + V), of all layers (L, B, H, E + V, E + V) where each has its own table."""
        table, (h, w) = self.table, grid
        if not same_grid(grid, self.window):
            table = self._resized(grid)
        rows, columns = row_and_column(index, w)
        down = rows[:, :, None] - rows[:, None, :] + h - 1
        across = columns[:, :, None] - columns[:, None, :] + w - 1
        relation = F.pad(down * (2 * w - 1) + across, (num_extra, 0, num_extra, 0), value=-1)
        if num_extra:
            last = table.shape[-2]
            relation[:, :num_extra, :] = last - 3
            relation[:, :, :num_extra] = last - 2
            relation[:, :num_extra, :num_extra] = last - 1
        return table[..., relation, :].movedim(-1, -3)

    def _resized(self, grid: tuple[int, int]) -> Tensor:
        """Return the table for another grid, interpolated bilinearly, as transformers does for this model."""
        source = (2 * self.window[0] - 1, 2 * self.window[1] - 1)
        target = (2 * grid[0] - 1, 2 * grid[1] - 1)
        places = self.table[..., :-3, :].transpose(-1, -2)  # (L, H, rows) or (H, rows)
        resized = F.interpolate(
            places.reshape(-1, places.shape[-2], *source).float(), size=target, mode="bilinear", align_corners=False
        )
        resized = resized.flatten(2).view(*places.shape[:-1], -1).transpose(-1, -2).to(self.table)
        return torch.cat([resized, self.table[..., -3:, :]], dim=-2)

    def scaled(self, bias: Tensor, layer: int) -> Tensor:
        """Return the bias (B, H, E + V, E + V) of one layer."""
        return bias[layer] if self.per_layer else bias


def channel_norm(x: Tensor) -> Tensor:
    """Apply layer norm without parameters over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], eps=FIXED_EPS)


class ConvPositions(nn.Module):
    """Relative positions from a stack of grouped convolutions over time, each followed by norm and GELU.

    Args:
        dim: D.
        depth: Layers. Kernel: max(3, width // depth).
        width: Total width in frames.
        groups: Groups of every convolution.
        zero_padding: Set the padding to zero before every convolution, so that it does not reach real frames. False
            convolves it like real frames, as the reference does.
        pre_norm: Normalise the input, with weights.
    """

    def __init__(
        self, dim: int, depth: int, width: int, groups: int, zero_padding: bool = True, pre_norm: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=FIXED_EPS) if pre_norm else nn.Identity()
        kernel = max(3, width // depth)
        self.convs = nn.ModuleList([SameConv1d(dim, dim, kernel, groups) for _ in range(depth)])
        self.zero_padding = zero_padding

    def forward(self, x: Tensor, token_mask: Tensor | None) -> Tensor:
        """Return positions (B, T, D) of x (B, T, D); token_mask (B, T) is True = real."""
        real = token_mask[..., None].to(x.dtype) if self.zero_padding and token_mask is not None else None
        x = self.norm(x)
        for conv in self.convs:
            x = F.gelu(channel_norm(conv(x if real is None else x * real)))
        return x
