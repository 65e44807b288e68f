"""Targets of the student: normalised, averaged outputs of the teacher's top blocks; and the collapse measure.

Shapes: B samples, T tokens, D hidden size. Token masks are True = real.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .configuration_modalities import Data2VecModalityConfig, norm_names
from .positions import FIXED_EPS, channel_norm


def instance_norm(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Normalise x (B, T, D) over the real time steps, per sample and channel, without parameters."""
    return _normalise(x, token_mask, (1,))


def batch_norm(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Normalise x (B, T, D) over samples and real time steps, per channel, without parameters."""
    return _normalise(x, token_mask, (0, 1))


def group_norm(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Normalise x (B, T, D) over real time steps and channels, per sample, without parameters."""
    return _normalise(x, token_mask, (1, 2))


def sample_norm(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Normalise x (B, T, D) over the samples that are real at a time step, per step and channel."""
    return _normalise(x, token_mask, (0,))


def position_norm(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """Normalise x (B, T, D) over the samples that are real at a time step and channels, per step."""
    return _normalise(x, token_mask, (0, 2))


def _normalise(x: Tensor, token_mask: Tensor | None, dims: tuple[int, ...]) -> Tensor:
    if token_mask is None:
        var, mean = torch.var_mean(x, dim=dims, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(var + FIXED_EPS)
    weight = token_mask[..., None].to(x.dtype)
    count = weight.sum(dim=dims, keepdim=True).clamp(min=1) * (x.shape[2] if 2 in dims else 1)
    centred = x - (x * weight).sum(dim=dims, keepdim=True) / count
    var = (centred.square() * weight).sum(dim=dims, keepdim=True) / count
    return centred * torch.rsqrt(var + FIXED_EPS)


class TargetMean:
    """Running average of the normalised outputs of the last K blocks, none of which is stored.

    Args:
        settings: Configuration of the modality.
        num_layers: Shared blocks.
        token_mask: (B, T) True = real; None = all.
        layer_scales: Factors (D,) of the feed-forward part of each block, if they belong to the targets.
    """

    NORMS = {
        "batch": batch_norm,
        "instance": instance_norm,
        "layer": lambda x, _: channel_norm(x),
        "group": group_norm,
        "sample": sample_norm,
        "position": position_norm,
    }

    def __init__(
        self,
        settings: Data2VecModalityConfig,
        num_layers: int,
        token_mask: Tensor | None,
        layer_scales: Sequence[Tensor | None] = (),
    ) -> None:
        self.k = settings.average_top_k_layers or num_layers
        self.first = num_layers - self.k
        self.layer_norms = norm_names(settings.layer_target_norm)
        self.mean_norms = norm_names(settings.mean_target_norm)
        self.layer_scales = layer_scales
        self.end_of_block, self.num_extra = settings.end_of_block_targets, settings.num_extra_tokens
        self.token_mask = token_mask
        self.total: Tensor | None = None

    def __call__(self, layer: int, output: Tensor, feed_forward: Tensor) -> None:
        if layer < self.first:
            return
        x = (output if self.end_of_block else feed_forward)[:, self.num_extra :].float()
        if self.layer_scales and not self.end_of_block:
            x = x * self.layer_scales[layer]
        x = self._norm(self.layer_norms, x)
        self.total = x if self.total is None else self.total + x

    def result(self) -> Tensor:
        """Return the targets (B, T, D) in fp32; values at padding mean nothing."""
        return self._norm(self.mean_norms, self.total / self.k)

    def _norm(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.NORMS[name](x, self.token_mask)
        return x


@torch.no_grad()
def batch_std(x: Tensor) -> Tensor:
    """Return the mean over channels of the std over rows of x (N, D), both papers' collapse measure; 0 for N = 0."""
    if x.shape[0] == 0:
        return x.new_zeros((), dtype=torch.float32)
    centred = x.float() - x.float().mean(dim=0)
    return torch.sqrt(centred.square().sum(dim=0) / max(x.shape[0] - 1, 1) + 1e-6).mean()
