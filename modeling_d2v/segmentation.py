"""Decoders of semantic segmentation: a pyramid from the levels of a plain transformer, UperNet, an auxiliary head.

Sources: UperNet (Xiao et al. 2018), pyramid pooling (Zhao et al. 2017), fully convolutional networks (Long et al.
2015), and the pyramid of BEiT (Bao et al. 2022), which data2vec's fine-tuning shares.

Shapes: B images, D hidden size, C channels, L labels, h x w grid of patches, H x W the finest level of the pyramid.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_data2vec import Data2VecConfig


# Stride of a level in pixels, from the finest level to the coarsest.
PYRAMID_STRIDES = (4, 8, 16, 32)


def resize(x: Tensor, size: Iterable[int]) -> Tensor:
    """Resize maps (B, C, h, w) bilinearly."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class ConvBlock(nn.Sequential):
    """Convolution that keeps the size, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU()


def upsampling(size: int, doublings: int) -> nn.Sequential:
    """Return transposed convolutions that each double the grid, with batch norm and GELU between them."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(size, size, 2, stride=2)]
    for _ in range(doublings - 1):
        layers += [nn.BatchNorm2d(size), nn.GELU(), nn.ConvTranspose2d(size, size, 2, stride=2)]
    return nn.Sequential(*layers)


class FeaturePyramid(nn.Module):
    """Four maps of the grid of patches, resized to strides of about 4, 8, 16 and 32 pixels.

    Every factor is a power of two: 4, 2, 1 and 1/2 for patches of about 16 pixels, 2, 1, 1/2 and 1/4 for those of 8.
    Patches below 4 pixels are treated as patches of 4: no level is coarser than an eighth of the grid.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        doublings = max(round(math.log2(config.vision_config.patch_size / PYRAMID_STRIDES[0])), 0)
        self.doublings = [doublings - i for i in range(len(PYRAMID_STRIDES))]
        self.levels = nn.ModuleList([self._level(config.hidden_size, n) for n in self.doublings])

    @staticmethod
    def _level(size: int, doublings: int) -> nn.Module:
        if doublings > 0:
            return upsampling(size, doublings)
        return nn.MaxPool2d(2**-doublings) if doublings else nn.Identity()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Map 4 x (B, D, h, w) to 4 maps (B, D, ...), the finest first.

        Raises:
            ValueError: The image is so small that the coarsest level would be empty.
        """
        least = 2 ** max(-self.doublings[-1], 0)
        if min(maps[0].shape[2:]) < least:
            raise ValueError(
                f"The image has {' x '.join(map(str, maps[0].shape[2:]))} patches; segmentation with this patch size "
                f"needs at least {least} x {least}. Resize it."
            )
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


class PyramidPooling(nn.Module):
    """Pyramid pooling: adds the context of each position, averaged over grids of several sizes."""

    def __init__(self, size: int, scales: list[int]) -> None:
        super().__init__()
        self.scales = scales
        self.convs = nn.ModuleList([ConvBlock(size, size, kernel_size=1) for _ in scales])
        self.bottleneck = ConvBlock((1 + len(scales)) * size, size, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, D, h, w) to (B, D, h, w).

        Raises:
            ValueError: A training batch has one image, whose pooled position has no variance for batch norm.
        """
        if self.training and len(x) == 1 and 1 in self.scales:
            raise ValueError(
                "Segmentation cannot be trained on a batch of one image: batch norm needs two values, and the pooled "
                "image is one. Use batches of at least 2 with `dataloader_drop_last=True`, or `pool_scales` without 1."
            )
        pooled = [conv(F.adaptive_avg_pool2d(x, scale)) for conv, scale in zip(self.convs, self.scales, strict=True)]
        return self.bottleneck(torch.cat([x, *[resize(each, x.shape[2:]) for each in pooled]], dim=1))


class UperHead(nn.Module):
    """UperNet: pyramid pooling of the coarsest level, a path from it down to the finest, and all levels joined."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        size, finer = config.hidden_size, len(PYRAMID_STRIDES) - 1
        self.pooling = PyramidPooling(size, config.vision_config.pool_scales)
        self.lateral_convs = nn.ModuleList([ConvBlock(size, size, kernel_size=1) for _ in range(finer)])
        self.output_convs = nn.ModuleList([ConvBlock(size, size, kernel_size=3) for _ in range(finer)])
        self.bottleneck = ConvBlock((finer + 1) * size, size, kernel_size=3)
        self.dropout = nn.Dropout2d(config.vision_config.classifier_dropout)
        self.classifier = nn.Conv2d(size, config.num_labels, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map 4 x (B, D, ...), the finest first, to logits (B, L, H, W)."""
        coarsest = self.pooling(levels[-1])
        path = [coarsest]
        for level, conv in zip(levels[-2::-1], reversed(self.lateral_convs), strict=True):
            path.append(conv(level) + resize(path[-1], level.shape[2:]))
        outputs = [conv(x) for conv, x in zip(self.output_convs, path[:0:-1], strict=True)] + [coarsest]
        joined = torch.cat([resize(x, levels[0].shape[2:]) for x in outputs], dim=1)
        return self.classifier(self.dropout(self.bottleneck(joined)))


class AuxiliaryHead(nn.Module):
    """A few convolutions on the third level, whose loss helps the deep layers to train."""

    level = 2

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        vision, size = config.vision_config, config.hidden_size
        width = vision.auxiliary_channels
        inputs = [size, *[width] * (vision.auxiliary_num_convs - 1)]
        self.convs = nn.Sequential(*[ConvBlock(before, width, kernel_size=3) for before in inputs])
        self.joint_conv = ConvBlock(size + width, width, kernel_size=3) if vision.auxiliary_concat_input else None
        self.dropout = nn.Dropout2d(vision.classifier_dropout)
        self.classifier = nn.Conv2d(width, config.num_labels, 1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map the levels of the pyramid to logits (B, L, ...) at the size of the third."""
        inputs = levels[self.level]
        x = self.convs(inputs)
        if self.joint_conv is not None:
            x = self.joint_conv(torch.cat([inputs, x], dim=1))
        return self.classifier(self.dropout(x))
