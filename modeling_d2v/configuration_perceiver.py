"""Settings of the front end that knows no modality: raw elements with coordinates, read by latents.

An element is a byte of a text, a pixel with its channels, a sample of a waveform, or an entry of an array with its
channels. Its coordinates are its indices, in elements.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .configuration_checks import in_range, one_of


GROUPINGS = ("groups", "global")


def block_side(group_size: int, dims: int) -> int | None:
    """Return the side of the cube of `dims` dimensions that `group_size` elements fill; None if no such cube is a
    cell of a space-filling curve, whose sides are powers of 2. In one dimension it is any length."""
    if dims == 1:
        return group_size
    exponent, rest = divmod(group_size.bit_length() - 1, dims)
    return 2**exponent if rest == 0 and group_size == 2 ** (exponent * dims) else None


@dataclass(repr=False)
class PerceiverSettings:
    """Mixin of the modality configurations: the front end "perceiver", an input mechanism for any kind of data.

    Elements are embedded (bytes by a table, numbers by a linear layer of their channels), Fourier features of their
    coordinates are added, and latents read them by cross-attention (Jaegle et al. 2021, arXiv 2103.03206). There is no
    tokenizer, no patch and no convolution.

    With `grouping="groups"` the elements are ordered by a space-filling curve of their coordinates and cut into groups
    of equal count (Carreira et al. 2022, arXiv 2202.10890). The latents of a group are concatenated and projected: a
    group is one token, and the cost is linear in the input.

    With `grouping="global"` latents read all visible elements of the input, and the groups are the units of masks and
    targets (`perceiver_global.py`). The cost is that of the elements times the latents.

    Args:
        grouping: `"groups"` (default) or `"global"`.
        group_size: Elements of a group. In two dimensions, with a power of 4, groups are squares and tokens form a
            grid; otherwise tokens form a line along the curve.
        group_latents: Latents that read a group, with `grouping="groups"`.
        anchors: With `grouping="global"`, place a latent in each cell of groups. Default True; False for `num_latents`
            latents without a place.
        latent_stride: Side of a cell in groups. Default 1: a latent for each group.
        num_latents: Latents without anchors. Default 64.
        latent_size: Width of elements and latents.
        latent_heads: Heads of the cross-attention.
        fourier_bands: Frequencies of the Fourier features, for each coordinate.
        max_frequency: Highest of them, in cycles per element. Default 0.5, the highest that elements can represent.
        absolute_coordinates: With `grouping="groups"`, give elements their absolute coordinates beside those in their
            group. Default False: groups of equal content then differ in nothing but the position of the token.
        coordinate_extent: Elements in one cycle of the lowest frequency. Default `None`: the image size, the
            maximum length of a text, one second of a waveform, 1024 for arrays.
    """

    num_dims: ClassVar[int]

    grouping: str = "groups"
    group_size: int = 16
    group_latents: int = 8
    anchors: bool = True
    latent_stride: int = 1
    num_latents: int = 64
    latent_size: int = 128
    latent_heads: int = 4
    fourier_bands: int = 16
    max_frequency: float | int = 0.5
    absolute_coordinates: bool = False
    coordinate_extent: int | None = None

    @property
    def is_perceiver(self) -> bool:
        """Return whether the front end is the one that these settings belong to."""
        return self.front_end == "perceiver"

    @property
    def latents_are_tokens(self) -> bool:
        """Return whether each group has a token of its own in the transformer blocks."""
        return not self.is_perceiver or self.grouping == "groups" or (self.anchors and self.latent_stride == 1)

    @property
    def group_side(self) -> int | None:
        """Return the side of a group in elements; None where groups are not squares or cubes."""
        return block_side(self.group_size, self.num_dims)

    @property
    def extent(self) -> int:
        """Return `coordinate_extent`, or its default."""
        return self.default_extent if self.coordinate_extent is None else self.coordinate_extent

    @property
    def default_extent(self) -> int:
        """Return the extent of a typical input of the modality in elements."""
        return 1024

    @property
    def groups_form_grid(self) -> bool:
        """Return whether the tokens of this front end lie in rows and columns."""
        return self.num_dims == 2 and self.group_side is not None

    def group_counts(self, sides: Sequence[Any]) -> tuple[Any, ...]:
        """Return the groups along each side of an array of `sides` elements, (total,) where they are not cubes.

        A part of a group at the border counts as one.
        """
        if self.group_side is None:
            return (-(-math.prod(sides) // self.group_size),)
        return tuple(-(-side // self.group_side) for side in sides)

    def check_perceiver(self) -> None:
        """Raise `ValueError` for an invalid setting of this front end."""
        owner = type(self).__name__
        one_of(owner, "grouping", self.grouping, GROUPINGS)
        for field in (
            "group_size",
            "group_latents",
            "latent_stride",
            "num_latents",
            "latent_size",
            "latent_heads",
            "fourier_bands",
        ):
            in_range(owner, field, getattr(self, field), 1)
        if self.coordinate_extent is not None:
            in_range(owner, "coordinate_extent", self.coordinate_extent, 2)
        in_range(owner, "max_frequency", self.max_frequency, 1 / self.extent, 0.5)
        if self.latent_size % self.latent_heads:
            raise ValueError(
                f"{owner}: `latent_size` ({self.latent_size}) must be a multiple of `latent_heads` "
                f"({self.latent_heads})."
            )
