"""Measures of whether the targets are worth predicting, which loss and standard deviations do not show.

A run can bring its loss near zero, keep a healthy standard deviation and still learn nothing, when the targets become
a function of the position, or of their neighbours. All measures are computed from sums over the micro-batches and
processes of a step: they do not depend on the number of processes.

Shapes: B samples, M masks per sample, T tokens, D channels, N masked tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


MAX_SAMPLES = 32
"""Samples of a micro-batch that are measured, to keep the cost low."""
MAX_ROWS = 4096
"""Masked tokens of a micro-batch that are measured, evenly spaced."""
MAX_POSITIONS = 512
"""First positions, for which the share explained by position is measured."""
LEAST_CONTENT = 0.01
"""Share of the variance beyond position below which what is explained of it is noise."""
MAX_CHANNELS = 256
"""Channels of the effective rank, evenly spaced; the eigenvalues of more would take too long."""


class TargetSums:
    """Sums over the masked tokens of one step of a modality.

    Args:
        width: Channels of the targets (D).
        device: Device of the sums.
        dtype: Type of the sums; sums of squares need float64 where the device has it.
    """

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype = torch.float64):
        self.channels = torch.arange(0, width, -(-width // MAX_CHANNELS), device=device)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=dtype)

        self.sums = {
            "rows": zeros(1),
            "error": zeros(width),
            "local": zeros(2),
            "position_count": zeros(MAX_POSITIONS),
            "position": zeros(MAX_POSITIONS, width),
            "position_square": zeros(MAX_POSITIONS),
            "sample": zeros(2),
            "neighbours": zeros(2),
        }
        for kind in ("target", "prediction"):
            self.sums |= {
                kind: zeros(width),
                f"{kind}_square": zeros(width),
                f"{kind}_products": zeros(len(self.channels), len(self.channels)),
            }

    @torch.no_grad()
    def add(self, targets: Tensor, predictions: Tensor, mask: Tensor, local_std: Tensor | None = None) -> None:
        """Add a micro-batch.

        Args:
            targets, predictions: (N, D), rows in the order of `mask`.
            mask: (B, M, T), True = predicted.
            local_std: Standard deviation of the local encoder's features.
        """
        mask = mask[:MAX_SAMPLES]
        count = int(mask.sum())
        self._add_positions(targets[:count], mask)
        step = max(1, -(-count // MAX_ROWS))
        dtype = self.sums["rows"].dtype
        rows = {"target": targets[:count:step].to(dtype), "prediction": predictions.detach()[:count:step].to(dtype)}
        self.sums["rows"] += len(rows["target"])
        self.sums["error"] += (rows["prediction"] - rows["target"]).square().sum(dim=0)
        for kind, values in rows.items():
            self.sums[kind] += values.sum(dim=0)
            self.sums[f"{kind}_square"] += values.square().sum(dim=0)
            some = values[:, self.channels]
            self.sums[f"{kind}_products"] += some.T @ some
        if local_std is not None:
            variance = local_std.detach().to(dtype).square()
            self.sums["local"] += torch.stack([variance, torch.ones_like(variance)])

    def _add_positions(self, targets: Tensor, mask: Tensor) -> None:
        """Add sums by position and of differences between neighbours, each target once over all masks."""
        sample, _, position = mask.nonzero(as_tuple=True)
        present = mask.any(dim=1)
        # The masks of a sample share their targets, so overwriting changes nothing.
        dense = targets.new_zeros((*present.shape, targets.shape[1]), dtype=torch.float32)
        dense[sample, position] = targets.float()
        both = present[:, 1:] & present[:, :-1]
        steps = (dense[:, 1:] - dense[:, :-1]).square().sum(dim=2)[both]
        dtype = self.sums["rows"].dtype
        self.sums["neighbours"] += torch.stack([steps.to(dtype).sum(), both.sum().to(dtype)])
        dense, present = dense[:, :MAX_POSITIONS], present[:, :MAX_POSITIONS]
        length = present.shape[1]
        self.sums["position_count"][:length] += present.sum(dim=0)
        self.sums["position"][:length] += dense.sum(dim=0, dtype=dtype)
        self.sums["position_square"][:length] += dense.square().sum(dim=2).sum(dim=0, dtype=dtype)
        # Pairs of tokens of one sample, which estimates from pairs of different samples leave out.
        own = torch.stack([dense.sum(dim=1, dtype=dtype).square().sum(), present.sum(dim=1).to(dtype).square().sum()])
        self.sums["sample"] += own

    @torch.no_grad()
    def measures(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, Tensor]:
        """Return the measures as scalars; NaN where nothing could be measured.

        - `target_std`, `prediction_std`: mean over channels of the standard deviation over tokens; near 0 after a
          collapse. `local_std`: of the local encoder's features, within a micro-batch.
        - `target_rank`, `prediction_rank`: exponential of the entropy of the normalised eigenvalues of the
          covariance, the number of directions in use; near 1 after a collapse to one direction.
        - `explained_by_prediction`: share of the targets' variance that the predictions explain.
        - `explained_by_position`: the index share, equal in all samples at the same position. Means are estimated from
          pairs of different samples, without bias for few of them; it may be slightly negative.
        - `explained_content`: (explained - index share) / (1 - index share), what the predictions explain of the rest;
          at or below 0 the student knows nothing but positions. NaN where almost nothing is left.
        - `explained_by_neighbour`: share that is equal in the next token.

        Args:
            reduce: Sums a tensor over all processes.
        """
        flat = reduce(torch.cat([value.flatten() for value in self.sums.values()]))
        pieces = flat.split([value.numel() for value in self.sums.values()])
        sums = {name: piece.view(value.shape)
                for (name, value), piece in zip(self.sums.items(), pieces, strict=True)}  # fmt: skip
        rows = sums["rows"].clamp(min=1)
        found: dict[str, Tensor] = {}
        for kind in ("target", "prediction"):
            mean = sums[kind] / rows
            variance = (sums[f"{kind}_square"] / rows - mean.square()).clamp(min=0)
            found[f"{kind}_std"] = variance.sqrt().mean()
            some = mean[self.channels]
            found[f"{kind}_rank"] = effective_rank(sums[f"{kind}_products"] / rows - some[:, None] * some)
            if kind == "target":
                total = variance.sum()
        found["local_std"] = (sums["local"][0] / sums["local"][1]).sqrt()
        found["explained_by_prediction"] = 1 - (sums["error"] / rows).sum() / total.clamp(min=1e-12)
        found["explained_by_position"] = share = _position_share(sums)
        content = (found["explained_by_prediction"] - share) / (1 - share)
        found["explained_content"] = torch.where(1 - share > LEAST_CONTENT, content, torch.nan)
        differences, pairs = sums["neighbours"]
        found["explained_by_neighbour"] = 1 - differences / pairs / (2 * total.clamp(min=1e-12))
        return found


def effective_rank(covariance: Tensor) -> Tensor:
    """Return exp of the entropy of the normalised eigenvalues of a covariance (D, D); NaN if it is not finite."""
    if not covariance.isfinite().all():
        return covariance.new_tensor(float("nan"))
    # On the CPU: the matrix is small, and not every accelerator supports eigenvalues.
    shares = torch.linalg.eigvalsh(covariance.cpu().double()).clamp(min=0)
    shares = shares / shares.sum().clamp(min=1e-30)
    return torch.special.entr(shares).sum().exp().to(covariance)


def _position_share(sums: dict[str, Tensor]) -> Tensor:
    """Return the variance of the means of positions over that of all tokens; NaN without pairs of samples."""
    count, total = sums["position_count"], sums["position_count"].sum().clamp(min=1)
    weight = count / total
    pairs = count * (count - 1)
    # Products of the tokens of different samples: at one position, and at any two.
    same = (sums["position"].square().sum(dim=1) - sums["position_square"]) / pairs.clamp(min=1)
    own, own_pairs = sums["sample"]
    mean = (sums["position"].sum(dim=0).square().sum() - own) / (total.square() - own_pairs).clamp(min=1)
    paired = pairs > 0
    of_positions = (weight * same)[paired].sum() / weight[paired].sum() - mean
    variance = (sums["position_square"].sum() / total - mean).clamp(min=1e-12)
    return of_positions / variance  # 0 / 0 without pairs


class TargetWatch:
    """Measurement of each modality in one step of every log interval.

    Args:
        device: Device of the sums.
        dtype: Type of the sums.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.sums: dict[str, TargetSums] = {}

    def collect(self, modality: str, output: Any) -> None:
        """Add a forward pass of the step that is measured."""
        if modality not in self.sums:
            self.sums[modality] = TargetSums(output.targets.shape[1], self.device, self.dtype)
        self.sums[modality].add(output.targets, output.predictions, output.predicted, output.local_std)

    def finish(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the step's measures by `modality/name`; every process must call it at the end of the step."""
        found = {f"{modality}/{name}": value
                 for modality, sums in self.sums.items() for name, value in sums.measures(reduce).items()}  # fmt: skip
        self.sums = {}
        return found
