"""The grouping "global": latents that read all visible elements of an input, each anchored at a place or none.

The unit of masks, targets and positions is a group of elements, as with the grouping "groups". Latents read the
elements of the visible groups, whichever these are, by one cross-attention; masked elements never enter. Anchored
latents lie at the centres of cells of groups and start with attention to what is near; without anchors all latents see
the input alike (Jaegle et al. 2021, arXiv 2103.03206).

Shapes as in `perceiver.py`. U groups, R rows: B, or B * M with masks, V visible groups, E extra tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .local_encoders import LocalFeatures, SelfInitialised, scale_gradient
from .masking import visible_indices
from .perceiver import FourierFeatures, PerceiverLocalEncoder, init_xavier
from .perceiver_groups import GroupedPerceiver, GroupingEncoder


class GlobalPerceiver(GroupingEncoder):
    """Values of the elements of each group; `LatentReader` reads them once it is known which are visible.

    Beside its value an element has a learned vector of its place in its group.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        self.offsets = nn.Parameter(torch.zeros(settings.group_size, settings.latent_size))

    def init_weights(self) -> None:
        # Called from here, as transformers does not initialise modules of other packages without weights of their own.
        self.values.init_weights()
        init.normal_(self.offsets, std=0.02)

    def make_reader(self, config: Data2VecConfig) -> nn.Module:
        return LatentReader(config, self.settings)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        groups = self.groups(inputs, attention_mask)
        values = self.values(groups.elements) + self.offsets  # (B, U, G, d)
        return LocalFeatures(
            scale_gradient(values.flatten(2), self.grad_scale),
            groups.token_mask,
            groups.grid,
            coordinates=groups.centres[0] / self.side,
            places=groups.coordinates,
            inside=groups.inside,
        )


class LatentReader(SelfInitialised):
    """Latents, and the cross-attention by which they read the elements.

    Extra tokens read like the others and have no anchor.

    Args:
        config: Configuration of the model.
        settings: Of the modality.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__()
        size, eps = settings.latent_size, settings.local_norm_eps
        self.settings, self.heads = settings, settings.latent_heads
        self.anchored, self.stride = settings.anchors, settings.latent_stride
        self.num_extra = settings.num_extra_tokens
        self.fourier = FourierFeatures(
            settings.num_dims, settings.fourier_bands, settings.extent, settings.max_frequency
        )
        self.placement = nn.Linear(self.fourier.width, size)
        free = self.num_extra + (0 if self.anchored else settings.num_latents)
        self.free = nn.Parameter(torch.zeros(free, size)) if free else None
        self.anchor = nn.Parameter(torch.zeros(size)) if self.anchored else None
        self.latent_norm, self.key_norm, self.value_norm = (nn.LayerNorm(size, eps=eps) for _ in range(3))
        self.query, self.key = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.value, self.projection = nn.Linear(size, size), nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size, eps=eps)
        self.fc1, self.fc2 = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.output = nn.Linear(size, config.hidden_size)

    def init_weights(self) -> None:
        for layer in (self.key, self.value, self.projection, self.fc1, self.fc2, self.output):
            init_xavier(layer)
        # Equal places have similar queries and keys: an anchored latent reads what is near from the start.
        init_xavier(self.query)
        if self.anchored:
            init.copy_(self.query.weight, 2 * self.key.weight)
        init.normal_(self.placement.weight, std=(2 / self.placement.in_features) ** 0.5)
        init.zeros_(self.placement.bias)
        if self.free is not None:
            init.normal_(self.free)
        if self.anchor is not None:
            init.normal_(self.anchor, std=0.02)

    def forward(
        self, local: LocalFeatures, mask: Tensor | None, drop: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Read the visible elements.

        Args:
            local: Output of `GlobalPerceiver`.
            mask: (B, M, U) True = masked, or None.
            drop: Leave out anchored latents of cells without a visible group; otherwise all of them read.

        Returns:
            Latents (R, E + L, D), which of them are real (R, E + L) (None = all), and of anchored ones the cells
            (R, L) and which of these are no filling (R, L); None for all cells in order.
        """
        elements, inside = self._elements(local)
        # Without a nonlinearity a mean of values would not tell which of them lies where.
        key, value = self.key(self.key_norm(elements)), self.value(self.value_norm(F.gelu(elements)))
        cells, keep = None, None
        if mask is not None:
            index, seen = _columns(~mask if local.token_mask is None else ~mask & local.token_mask[:, None])
            rows = torch.arange(len(index), device=index.device)[:, None] // mask.shape[1]
            key, value = key[rows, index], value[rows, index]
            inside = inside.expand(len(local.features), -1, -1)[rows, index] & seen[..., None]
            if drop and self.anchored:
                visible = self.any_of_cell(local, ~mask.flatten(0, 1), mask.shape[1])
                cells, keep = _columns(visible[:, None])
                keep = None if keep.all() else keep
        key, value, inside = key.flatten(1, 2), value.flatten(1, 2), inside.flatten(1)
        latents = self._latents(local, cells, len(key))
        x = self._read(latents, key, value, inside)
        x = x + self.fc2(F.gelu(self.fc1(self.mlp_norm(x))))
        real = keep
        if cells is None and self.anchored and local.token_mask is not None:
            repeats = len(key) // len(local.features)
            real = self.any_of_cell(local, None, 1).repeat_interleave(repeats, dim=0)
        if real is not None:
            real = F.pad(real, (self.num_extra, 0), value=True)
        return self.output(x), real, cells, keep

    def _elements(self, local: LocalFeatures) -> tuple[Tensor, Tensor]:
        """Return the elements (B, U, G, d), values and places added, and which are real (1 or B, U, G)."""
        values = local.features.unflatten(2, (local.places.shape[2], -1))
        placed = self.placement(self.fourier(local.places).to(values.dtype))
        inside = local.inside if local.token_mask is None else local.inside & local.token_mask[..., None]
        return values + placed, inside

    def _latents(self, local: LocalFeatures, cells: Tensor | None, rows: int) -> Tensor:
        """Return the latents (R or 1, E + L, d) before they read."""
        parts = [] if self.free is None else [self.free[None]]
        if self.anchored:
            side = self.settings.group_side or self.settings.group_size ** (1 / self.settings.num_dims)
            placed = self.placement(self.fourier(self.anchors(local) * side).to(self.anchor.dtype))
            parts.append((self.anchor + placed)[None] if cells is None else (self.anchor + placed)[cells])
        most = max(len(part) for part in parts)
        return torch.cat([part.expand(most, -1, -1) for part in parts], dim=1)

    def _read(self, latents: Tensor, key: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query = split(self.query(self.latent_norm(latents))).expand(len(key), -1, -1, -1)
        bias = None
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if traced or not inside.all():
            # Not -inf: rows without a visible element attend to everything instead of becoming NaN.
            bias = torch.zeros_like(inside, dtype=query.dtype).masked_fill(~inside, torch.finfo(query.dtype).min)
            bias = bias[:, None, None].expand(len(key), 1, query.shape[2], -1)
        read = F.scaled_dot_product_attention(query, split(key), split(value), attn_mask=bias)
        return self.projection(read.transpose(1, 2).flatten(2))

    # Cells: the groups around an anchor.

    def _cells(self, local: LocalFeatures) -> tuple[Tensor, int]:
        """Return the cell of each group (U,) and the number of cells."""
        count, stride = local.features.shape[1], self.stride
        places = torch.arange(count, device=local.features.device)
        if local.grid is None:
            return places // stride, -(-count // stride)
        width = local.grid[1]
        columns = -(-width // stride)
        return (places // width // stride) * columns + places % width // stride, -(-local.grid[0] // stride) * columns

    def anchors(self, local: LocalFeatures) -> Tensor:
        """Return the centres (L, n) of the cells, in units of the distance of neighbouring groups.

        Cells at the end of a line or a grid have the centres of whole ones, so that padding does not move them.
        """
        places, stride = local.coordinates, self.stride
        if stride == 1:
            return places
        if local.grid is not None:
            return places.unflatten(0, local.grid)[::stride, ::stride].flatten(0, 1) + (stride - 1) / 2
        if places.shape[1] == 1:
            return places[::stride] + (stride - 1) / 2
        # Along a curve, which bends.
        return torch.stack([cell.mean(dim=0) for cell in places.split(stride)])

    def any_of_cell(self, local: LocalFeatures, chosen: Tensor | None, repeats: int) -> Tensor:
        """Return which cells (R, L) have a real group that is `chosen` (R, U), None = any real one."""
        real = local.token_mask
        if real is not None:
            real = real.repeat_interleave(repeats, dim=0)
        chosen = real if chosen is None else chosen if real is None else chosen & real
        if self.stride == 1:
            return chosen
        cells, count = self._cells(local)
        found = torch.zeros(len(chosen), count, dtype=torch.int32, device=chosen.device)
        return found.index_add_(1, cells, chosen.to(torch.int32)) > 0

    def to_groups(self, local: LocalFeatures) -> Callable[[Tensor], Tensor]:
        """Return the map from the content of latents (R, L, D) to that of the groups (R, U, D).

        That of a group is its cell's; without anchors it is the mean of the latents by the attention they pay to it.
        """
        if self.anchored:
            cells, _ = self._cells(local)
            return lambda x: x[:, cells]
        elements, inside = self._elements(local)
        weight, elements = inside[..., None].to(elements.dtype), self.key_norm(elements)
        key = self.key((elements * weight).sum(dim=2) / weight.sum(dim=2).clamp(min=1))  # (B, U, d)
        query = self.query(self.latent_norm(self.free[self.num_extra :])).unflatten(-1, (self.heads, -1))
        scores = torch.einsum("buhc,lhc->buhl", key.unflatten(-1, (self.heads, -1)), query)
        share = (scores * query.shape[-1] ** -0.5).softmax(dim=-1).mean(dim=2)  # (B, U, L)
        return lambda x: share.to(x.dtype).repeat_interleave(len(x) // len(share), dim=0) @ x


def _columns(visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices of what is visible in (B, M, U), at least one column, and which of them are no filling."""
    index, keep = visible_indices(~visible)
    return visible_indices(~visible, size=1) if index.shape[1] == 0 else (index, keep)


# By the setting `grouping`.
GROUPING_ENCODERS: dict[str, type[PerceiverLocalEncoder]] = {"groups": GroupedPerceiver, "global": GlobalPerceiver}


def perceiver_encoder(config: Data2VecConfig, settings: Data2VecModalityConfig) -> PerceiverLocalEncoder:
    """Return the local encoder of the front end "perceiver"."""
    return GROUPING_ENCODERS[settings.grouping](config, settings)
