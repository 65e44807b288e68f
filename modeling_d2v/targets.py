"""Targets of the student: normalised, averaged outputs of the teacher's top blocks; and the collapse measure.

Shapes: B samples, T tokens, D hidden size. Token masks are True = real.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .configuration_modalities import Data2VecModalityConfig, MaskedPredictionConfig, norm_names
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


class RunningNorm(nn.Module):
    """Standardisation of targets by the running mean and variance of their position and channel.

    Norms over the tokens of a sample keep what all samples have in common at a position, which a student predicts
    without looking at the input. Statistics of a single batch would depend on its size and on the number of processes;
    here all forward passes of a step are normalised by the statistics of earlier steps, to which `update` adds those
    of the step, summed over all processes.

    Positions are counted among the real tokens. Statistics of a position are averaged with those of all positions,
    which count as `PRIOR` tokens: positions that few samples reach have poor ones of their own. Before the first
    update each token is normalised over its channels instead.

    Args:
        slots: Places where the norm is applied, each with statistics of its own.
        bins: Positions with statistics of their own; later ones share the last.
        width: Channels (D).
        decay: Factor of the weight of earlier steps, for each step.
    """

    PRIOR = 16

    def __init__(self, slots: int, bins: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        # Tokens that the statistics stand for, fewer the older they are.
        self.register_buffer("weight", torch.zeros(slots, bins))
        self.register_buffer("mean", torch.zeros(slots, bins, width))
        self.register_buffer("var", torch.zeros(slots, bins, width))
        # Count, sum and sum of squares (2 D + 1) of the deviations from `mean` since the last update.
        self._collected: Tensor | None = None

    @classmethod
    def of(cls, settings: MaskedPredictionConfig, num_layers: int, width: int) -> "RunningNorm | None":
        """Return the statistics that the target norms of a modality need; None if none is `"running"`."""
        layers, mean = norm_names(settings.layer_target_norm), norm_names(settings.mean_target_norm)
        slots = layers.count("running") * (settings.average_top_k_layers or num_layers) + mean.count("running")
        if not slots:
            return None
        return cls(slots, settings.target_norm_bins, width, settings.target_norm_decay)

    def reset(self) -> None:
        """Forget all statistics."""
        for buffer in (self.weight, self.mean, self.var):
            buffer.zero_()
        self._collected = None

    def forward(self, x: Tensor, token_mask: Tensor | None, slot: int, bins: Tensor | None = None) -> Tensor:
        """Normalise x (B, T, D), and collect its statistics in training.

        Args:
            x: Targets in fp32.
            token_mask: (B, T) True = real, None = all.
            slot: Place where the norm is applied.
            bins: (T,) bin of the i-th real token. Default: i, up to the last bin.
        """
        if bins is None:
            bins = torch.arange(x.shape[1], device=x.device).clamp(max=self.weight.shape[1] - 1)
        if self.training:
            self._collect(x, token_mask, slot, bins)
        weight, mean, var = self.weight[slot][:, None], self.mean[slot], self.var[slot]
        total = weight.sum()
        share = weight / total.clamp(min=1e-12)
        common = (share * mean).sum(dim=0)
        within, between = (share * var).sum(dim=0), (share * (mean - common).square()).sum(dim=0)
        kept = weight / (weight + self.PRIOR)
        mean = common + kept * (mean - common)
        var = within + kept * (var - within) + (1 - kept).square() * between
        # Relative to the scale of the targets, since untrained networks have very small ones.
        var = var + FIXED_EPS * within.mean() + 1e-12
        if token_mask is None:
            places = bins
        else:
            places = bins[(token_mask.long().cumsum(dim=1) - 1).clamp(min=0)]
        out = (x - mean[places]) * torch.rsqrt(var)[places]
        return torch.where(total > 0, out, channel_norm(x))

    @torch.compiler.disable  # changes an attribute
    @torch.no_grad()
    def _collect(self, x: Tensor, token_mask: Tensor | None, slot: int, bins: Tensor) -> None:
        if self._collected is None:
            self._collected = self._nothing()
        if token_mask is None:
            real = x.new_ones(*x.shape[:2], 1)
        else:
            # Real tokens first, so that equal places are equal positions.
            padding = ~token_mask.bool()
            order = padding.long().argsort(dim=1, stable=True)
            x = x.gather(1, order[..., None].expand_as(x))
            real = (~padding.gather(1, order))[..., None].to(x.dtype)
        deviation = (x - self.mean[slot][bins]).masked_fill(real == 0, 0.0)
        sums = torch.cat([real.sum(dim=0), deviation.sum(dim=0), deviation.square().sum(dim=0)], dim=1)
        self._collected[slot].index_add_(0, bins, sums)

    def _nothing(self) -> Tensor:
        slots, bins, width = self.mean.shape
        return self.mean.new_zeros(slots, bins, 2 * width + 1)

    def discard(self) -> None:
        """Forget what was collected since the last update, as after a step that was skipped."""
        self._collected = None

    @torch.no_grad()
    def update(self) -> None:
        """Add what was collected since the last update in all processes, which must all call it."""
        collected = self._collected
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_world_size() > 1:
            # A process without a batch of the modality has nothing, and must take part.
            collected = self._nothing() if collected is None else collected
            torch.distributed.all_reduce(collected)
        if collected is None:
            return
        self._collected = None
        collected = torch.where(collected.isfinite().all(), collected, 0.0)
        count, first, second = collected.split([1, self.mean.shape[2], self.mean.shape[2]], dim=2)
        # Steps without this modality do not age the statistics, however many processes there are.
        old = torch.where(count.sum() > 0, self.decay, 1.0) * self.weight[..., None]
        new = old + count
        share = count / new.clamp(min=1e-12)
        first, second = first / count.clamp(min=1), second / count.clamp(min=1)
        step = share * first
        # Deviations from the new mean: of the old statistics by `step`, of the new tokens by `first` - `step`.
        var = (1 - share) * (self.var + step.square()) + share * (second - 2 * step * first + step.square())
        self.mean.add_(step)
        self.var.copy_(var.clamp(min=0))
        self.weight.copy_(new[..., 0])


class TargetMean:
    """Running average of the normalised outputs of the last K blocks, none of which is stored.

    Args:
        settings: Configuration of the modality.
        num_layers: Shared blocks.
        token_mask: (B, T) True = real; None = all.
        layer_scales: Factors (D,) of the feed-forward part of each block, if they belong to the targets.
        running: Statistics of the norm "running", needed if the settings have it. In training mode they collect what
            they normalise.
        to_tokens: Maps outputs for latents (B, L, D) to the tokens (B, T, D); None where they are the tokens.
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
        running: "RunningNorm | None" = None,
        to_tokens: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.k = settings.average_top_k_layers or num_layers
        self.first = num_layers - self.k
        self.layer_norms = norm_names(settings.layer_target_norm)
        self.mean_norms = norm_names(settings.mean_target_norm)
        self.layer_scales = layer_scales
        self.end_of_block, self.num_extra = settings.end_of_block_targets, settings.num_extra_tokens
        self.token_mask = token_mask
        self.running, self.slot, self.to_tokens = running, 0, to_tokens
        self.total: Tensor | None = None

    def __call__(self, layer: int, output: Tensor, feed_forward: Tensor) -> None:
        if layer < self.first:
            return
        x = (output if self.end_of_block else feed_forward)[:, self.num_extra :].float()
        if self.to_tokens is not None:
            x = self.to_tokens(x)
        if self.layer_scales and not self.end_of_block:
            x = x * self.layer_scales[layer]
        x = self._norm(self.layer_norms, x)
        self.total = x if self.total is None else self.total + x

    def result(self) -> Tensor:
        """Return the targets (B, T, D) in fp32; values at padding mean nothing."""
        return self._norm(self.mean_norms, self.total / self.k)

    def _norm(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            if name == "running":
                x = self.running(x, self.token_mask, self.slot)
                self.slot += 1
            else:
                x = self.NORMS[name](x, self.token_mask)
        return x


@torch.no_grad()
def batch_std(x: Tensor) -> Tensor:
    """Return the mean over channels of the std over rows of x (N, D), both papers' collapse measure; 0 for N = 0."""
    if x.shape[0] == 0:
        return x.new_zeros((), dtype=torch.float32)
    centred = x.float() - x.float().mean(dim=0)
    return torch.sqrt(centred.square().sum(dim=0) / max(x.shape[0] - 1, 1) + 1e-6).mean()
