"""Parts of the loss of every pretraining model: sample ids, masks, distances and the output.

Shapes: B samples, M masks per sample, T tokens, D hidden size, N predicted tokens over all samples and masks: the
masked ones, or a share of them. Masks are True = masked, token masks True = real.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .masking import counter_bits, sample_masks
from .modeling_data2vec import check_mask
from .targets import batch_std


QUERY_STREAM = 18
MIN_QUERIES = 16
"""Masked tokens of each mask that are predicted at least, however small `decoder_query_share` is."""


@torch.compiler.disable  # as `counter_bits`
@torch.no_grad()
def content_ids(inputs: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Hash the content of samples without ids into ids (B,): equal content has equal masks everywhere."""
    bits = inputs.float().contiguous().view(torch.int32) if inputs.is_floating_point() else inputs
    bits = bits.long()
    if attention_mask is not None:
        # Of arrays the mask has no channels, and of inputs with several sides it is of tokens, which cannot be hashed.
        same = attention_mask.shape == bits.shape[: attention_mask.dim()]
        bits = bits * attention_mask.long()[(..., *[None] * (bits.dim() - attention_mask.dim()))] if same else bits
    bits = bits.flatten(1)
    # Odd factors that differ between positions; int64 products wrap around, which mixes the bits.
    factors = torch.arange(bits.shape[1], device=bits.device) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    return ((bits + 1) * factors).sum(dim=1) & (2**62 - 1)


@dataclass
class Data2VecForPreTrainingOutput(ModelOutput):
    """Output of `Data2VecForPreTraining` and `BackboneForPreTraining`.

    Args:
        loss: Sum of `losses`.
        losses: "regression", and "cls", "shared_regression" and "reconstruction" if configured, normalised as in
            `loss`.
        num_items: Predicted tokens over all masks of this batch (N), int64.
        predictions, targets: (N, D), rows in the order of `predicted`.
        mask: (B, M, T), the one that was used.
        prediction_std, target_std, local_std: Mean over channels of the standard deviation over rows, of predictions,
            targets and local encoder features; near 0 after a collapse.
        masked_fraction: Masked share of the real tokens.
        hidden_states: Input of the student's first shared block and output of each, (B * M, E + V, D), if requested.
        attentions: Weights (B * M, H, E + V, E + V) of each of the student's shared blocks, if requested.
        predicted: (B, M, T) True = predicted: `mask`, or a part of it with `decoder_query_share`.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    num_items: Tensor | None = None
    predictions: Tensor | None = None
    targets: Tensor | None = None
    mask: Tensor | None = None
    prediction_std: Tensor | None = None
    target_std: Tensor | None = None
    local_std: Tensor | None = None
    masked_fraction: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    predicted: Tensor | None = None


def resolve_mask(
    mask: Tensor | None,
    settings: Any,
    features: Tensor,
    token_mask: Tensor | None,
    grid: tuple[int, int] | None,
    key: dict[str, Any],
    mask_padding: bool = False,
) -> Tensor:
    """Return the mask (B, M, T) of a forward pass: the given one, checked, or one drawn by the configuration.

    Args:
        mask: (B, M, T) or (B, T) for one mask, or None.
        settings: Configuration of the modality, for the fields of its masks.
        features: (B, T, ...), for sizes and device.
        token_mask: (B, T), None = all real.
        grid: Height and width in patches.
        key: `seed`, `step` and `sample_ids` (B,).
        mask_padding: Do not change a given mask at padding.
    """
    if mask is None:
        length = torch.full((features.shape[0],), features.shape[1], device=features.device)
        lengths = length if token_mask is None else token_mask.sum(dim=1)
        mask = sample_masks(settings, lengths, grid=grid, **key)
        mask = F.pad(mask, (0, features.shape[1] - mask.shape[2]))
        if token_mask is None:
            return mask
        # The i-th real token gets the i-th decision, wherever the padding is.
        rank = (token_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return mask.gather(2, rank[:, None].expand_as(mask)) & token_mask[:, None]
    mask = check_mask(mask[:, None] if mask.dim() == 2 else mask, features, 3)
    return mask if token_mask is None or mask_padding else mask & token_mask[:, None]


def _query_counts(settings: Any, mask: Tensor) -> Tensor:
    """Return how many of the masked tokens of each row of `mask` (..., T) are predicted."""
    counts = mask.sum(dim=-1)
    # In float64, as Python computes it: every process must find the same number.
    chosen = (counts.double() * settings.decoder_query_share).round().to(counts.dtype)
    return torch.minimum(counts, chosen.clamp(min=MIN_QUERIES))


def num_predicted(settings: Any, mask: Tensor) -> Tensor:
    """Return the number of tokens that are predicted with a mask (B, M, T), for `num_items`."""
    if getattr(settings, "decoder_query_share", 1) >= 1:
        return mask.sum()
    return _query_counts(settings, mask).sum()


@torch.no_grad()
def choose_predicted(settings: Any, mask: Tensor, key: dict[str, Any]) -> Tensor:
    """Return the masked tokens that are predicted, (B, M, T): all, or a random `decoder_query_share` of each mask.

    Like the masks, they are a function of seed, step, sample and mask, and do not depend on padding.

    Args:
        settings: Configuration of the modality.
        mask: (B, M, T), True = masked.
        key: `seed`, `step` and `sample_ids` (B,).
    """
    if getattr(settings, "decoder_query_share", 1) >= 1:
        return mask
    bits = counter_bits(**key, count=mask.shape[2], repeats=mask.shape[1], stream=QUERY_STREAM)
    # The i-th masked token gets the i-th number, wherever the padding is.
    place = (mask.cumsum(dim=2) - 1).clamp(min=0)
    order = bits.gather(2, place).masked_fill(~mask, torch.iinfo(torch.int64).max).argsort(dim=2)
    rank = torch.empty_like(order).scatter_(2, order, torch.arange(mask.shape[2], device=mask.device).expand_as(order))
    return mask & (rank < _query_counts(settings, mask)[..., None])


def distance(settings: Any, hidden_size: int, predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the scaled sum of the squared error, or of the smooth L1 loss with `loss_beta`."""
    scale = settings.loss_scale if settings.loss_scale is not None else hidden_size**-0.5
    predictions, targets = predictions.float(), targets.float()
    if settings.loss_beta == 0:
        return F.mse_loss(predictions, targets, reduction="sum") * scale
    return F.smooth_l1_loss(predictions, targets, reduction="sum", beta=settings.loss_beta) * scale


@torch.no_grad()
def normalised_patches(pixels: Tensor, side: int) -> Tensor:
    """Return the pixels of patches of `side` x `side` at mean 0 and variance 1 each: (B, T, side * side * C) in fp32.

    Args:
        pixels: (B, C, height, width).
        side: Side of a patch.
    """
    batch, channels, height, width = pixels.shape
    grid = pixels.float().view(batch, channels, height // side, side, width // side, side)
    patches = grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, side * side * channels)
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * torch.rsqrt(var + 1e-6)


def loss_divisor(mask: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Return the divisor of sums over predicted tokens: `num_items`, or those of this batch."""
    return (mask.sum() if num_items is None else torch.as_tensor(num_items, device=mask.device)).clamp(min=1)


def pretraining_output(
    losses: dict[str, Tensor],
    predictions: Tensor,
    targets: Tensor,
    mask: Tensor,
    features: Tensor,
    token_mask: Tensor | None,
    hidden_states: tuple[Tensor, ...] | None = None,
    attentions: tuple[Tensor, ...] | None = None,
    predicted: Tensor | None = None,
) -> Data2VecForPreTrainingOutput:
    """Return the output with its measures of collapse; `features` (B, T, C) are the local encoder's."""
    count, features = mask.sum(), features.detach()
    predicted = mask if predicted is None else predicted
    real = mask[:, 0].numel() if token_mask is None else token_mask.sum().clamp(min=1)
    return Data2VecForPreTrainingOutput(
        loss=sum(losses.values()),
        losses=losses,
        num_items=count if predicted is mask else predicted.sum(),
        predictions=predictions,
        targets=targets,
        mask=mask,
        prediction_std=batch_std(predictions.detach()),
        target_std=batch_std(targets),
        local_std=batch_std(features.flatten(0, 1) if token_mask is None else features[token_mask]),
        masked_fraction=count / (real * mask.shape[1]),
        hidden_states=hidden_states,
        attentions=attentions,
        predicted=predicted,
    )
