"""What loss and standard deviations do not tell: whether the targets are worth predicting.

A run can bring its loss near zero, keep a healthy standard deviation and still learn nothing, when the targets become
a function of the position. Both shares below reach 1 at most; that of the position may fall a little below 0, because
it is estimated without bias.

Shapes: B samples, M masks per sample, T tokens, D channels, N masked tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def explained_by_prediction(predictions: Tensor, targets: Tensor) -> Tensor:
    """Share of the targets' variance that the predictions explain; both (N, D)."""
    targets = targets.float()
    error = (predictions.float() - targets).square().mean()
    return 1 - error / targets.var(dim=0, correction=0).mean().clamp(min=1e-12)


@torch.no_grad()
def explained_by_position(targets: Tensor, mask: Tensor) -> Tensor:
    """Share of the targets' variance that is common to all samples at the same position.

    Estimated from pairs of different samples, so that few samples do not pass for a common part; NaN where no position
    is masked in two samples, above all where there is one sample only.

    Args:
        targets: (N, D), rows in the order of `mask`.
        mask: (B, M, T), True = masked.
    """
    sample, _, position = mask.nonzero(as_tuple=True)
    present = mask.any(dim=1)
    # The masks of a sample share their targets: writing one over the other changes nothing.
    dense = targets.new_zeros((*present.shape, targets.shape[1]), dtype=torch.float32)
    dense[sample, position] = targets.float() - targets.float().mean(dim=0)
    own = dense.square().sum()
    common = dense.sum(dim=0).square().sum() - own
    count = present.sum(dim=0)
    pairs = (count * (count - 1)).sum()
    share = (common / pairs.clamp(min=1)) / (own / count.sum().clamp(min=1)).clamp(min=1e-12)
    return torch.where(pairs > 0, share, torch.full_like(share, float("nan")))
