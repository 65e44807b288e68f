"""The grouping "groups": elements in the order of a space-filling curve, cut into groups, each of which is one token.

Shapes as in `perceiver.py`. G is `group_size`; a side of a group is s.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .curves import curve_order
from .local_encoders import LocalFeatures, scale_gradient
from .perceiver import CoordinatePositions, FourierFeatures, LatentRead, PerceiverLocalEncoder, init_xavier


def cut_cubes(x: Tensor, side: int) -> Tensor:
    """Cut x (B, sides ..., C) into cubes of `side`: (B, T, G, C), T row by row; zeros are added after the last row."""
    dims = x.dim() - 2
    added = [-length % side for length in x.shape[1:-1]]
    x = F.pad(x, [0, 0, *(part for count in reversed(added) for part in (0, count))])
    for i in range(dims):
        x = x.unflatten(1 + 2 * i, (-1, side))
    x = x.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return x.flatten(1 + dims, -2).flatten(1, dims)


def cut_curve(x: Tensor, size: int) -> Tensor:
    """Cut x (B, sides ..., C) into stretches of `size` entries of a Hilbert curve: (B, T, size, C)."""
    order = curve_order(tuple(x.shape[1:-1])).to(x.device)
    x = x.flatten(1, -2)[:, order]
    return F.pad(x, (0, 0, 0, -x.shape[1] % size)).unflatten(1, (-1, size))


def spacing(sides: Any, device: torch.device) -> Tensor:
    """Return the coordinates (1, sides ..., n) of the entries of an array."""
    axes = [torch.arange(side, device=device, dtype=torch.float32) for side in sides]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]


@dataclass
class Groups:
    """The elements of a batch, in groups."""

    elements: Tensor  # (B, T, G, C), zeros where a group at the border is not full
    coordinates: Tensor  # (1, T, G, n) in elements
    inside: Tensor  # (1 or B, T, G) False at padding and where a group is not full
    centres: Tensor  # (1, T, n) in elements
    token_mask: Tensor | None  # (B, T), None = all real
    grid: tuple[int, int] | None  # rows and columns of groups, where they lie so


class GroupingEncoder(PerceiverLocalEncoder):
    """Base of the front ends whose tokens are groups of elements."""

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        # The diameter of a group, for groups that are no cubes of a cube of the same content.
        self.side = settings.group_side or settings.group_size ** (1 / settings.num_dims)

    def make_positions(self, config: Data2VecConfig) -> nn.Module:
        return CoordinatePositions(config.hidden_size)

    def cut(self, x: Tensor) -> Tensor:
        """Cut x (B, sides ..., C) into groups (B, T, G, C)."""
        settings = self.settings
        if settings.group_side is None:
            return cut_curve(x, settings.group_size)
        groups = cut_cubes(x, settings.group_side)
        if settings.num_dims < 3:
            return groups
        return groups[:, curve_order(settings.group_counts(x.shape[1:-1])).to(x.device)]

    def groups(self, inputs: Tensor, attention_mask: Tensor | None) -> Groups:
        """Cut an input into groups."""
        settings = self.settings
        elements, real = self.elements(inputs, attention_mask)
        sides = tuple(elements.shape[1:-1])
        coordinates = self.cut(spacing(sides, elements.device))
        inside = self.cut(coordinates.new_ones(1, *sides, 1))[..., 0] > 0  # (1, T, G)
        centres = self._centres(coordinates, inside)
        token_mask = None
        if real is not None:
            inside = self.cut(real[..., None].to(coordinates.dtype))[..., 0] > 0  # (B, T, G)
            token_mask = inside.any(dim=-1)
        elif attention_mask is not None:
            token_mask = attention_mask.bool()
        grid = settings.group_counts(sides) if settings.groups_form_grid else None
        return Groups(self.cut(elements), coordinates, inside, centres, token_mask, grid)

    def _centres(self, coordinates: Tensor, inside: Tensor) -> Tensor:
        """Return the centres (1, T, n) of groups (1, T, G, n); of a cube at the border as if the array went on."""
        if self.settings.group_side is None:
            weights = inside[..., None].float()
            return (coordinates * weights).sum(dim=2) / weights.sum(dim=2)
        return coordinates[:, :, 0] + (self.settings.group_side - 1) / 2


class GroupedPerceiver(GroupingEncoder):
    """Groups of elements, read by latents with shared weights; the latents of a group become one token.

    The coordinates of an element are those in its group, as all groups share the weights; fixed positions tell where a
    group is. With absolute coordinates, tokens hold their position rather than their content.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        size, dims, eps = settings.latent_size, settings.num_dims, settings.local_norm_eps
        bands = min(settings.fourier_bands, max(math.ceil(self.side / 2), 1))
        self.offsets = FourierFeatures(dims, bands, max(self.side, 2), 0.5)
        self.absolute = settings.absolute_coordinates
        width = self.offsets.width + (self.coordinates.width if self.absolute else 0)
        self.placement = nn.Linear(width, size)
        self.latents = nn.Parameter(torch.zeros(settings.group_latents, size))
        self.read = LatentRead(size, settings.latent_heads, eps)
        self.projection = nn.Linear(settings.group_latents * size, config.hidden_size)

    def init_weights(self) -> None:
        # Called from here, as transformers does not initialise modules of other packages without weights of their own.
        self.values.init_weights()
        self.read.init_weights()
        init.normal_(self.latents)
        init.normal_(self.placement.weight, std=(2 / self.placement.in_features) ** 0.5)
        init.zeros_(self.placement.bias)
        init_xavier(self.projection)

    def forward(self, inputs: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        groups = self.groups(inputs, attention_mask)
        values = self.values(groups.elements)  # (B, T, G, d)
        features = [self.offsets(groups.coordinates - groups.centres[:, :, None])]
        if self.absolute:
            features.append(self.coordinates(groups.coordinates))
        placed = self.placement(torch.cat(features, dim=-1).to(values.dtype))
        x = F.gelu(values + placed).flatten(0, 1)  # (B T, G, d)
        inside = groups.inside.expand(values.shape[0], -1, -1).flatten(0, 1)
        x = self.read(self.latents.to(x.dtype)[None], x, inside)
        x = self.projection(x.flatten(1)).unflatten(0, (values.shape[0], -1))  # (B, T, D)
        coordinates = groups.centres[0] / self.side
        return LocalFeatures(scale_gradient(x, self.grad_scale), groups.token_mask, groups.grid, None, coordinates)
