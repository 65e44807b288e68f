"""Connectionist temporal classification (Graves et al. 2006): loss, and fewest frames of a transcript.

Shapes: B samples, T frames, W tokens of the vocabulary, S labels of the longest transcript. Labels of -100 and the
blank are padding, at any position of a transcript.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads import IGNORED


def ctc_min_frames(labels: Tensor, blank: int) -> Tensor:
    """Return the fewest frames that a transcript needs: one per label, and a blank between equal neighbours.

    A recording with fewer frames cannot be aligned and has an infinite loss. To find such recordings in a batch:
    `config.audio_config.num_frames(samples) < ctc_min_frames(labels, config.audio_config.pad_token_id)`.

    Args:
        labels: (B, S) or (S,).
        blank: `audio_config.pad_token_id`.

    Returns:
        (B,) or (), int64.
    """
    labels, lengths = _packed(labels, blank)
    places = torch.arange(labels.shape[-1], device=labels.device)[1:]
    repeated = (labels[..., 1:] == labels[..., :-1]) & (places < lengths[..., None])
    return lengths + repeated.sum(dim=-1)


def ctc_loss(
    logits: Tensor,
    labels: Tensor,
    real: Tensor | None,
    *,
    blank: int,
    reduction: str = "mean",
    zero_infinity: bool = True,
    num_items: Tensor | int | None = None,
) -> Tensor:
    """Compute the loss of a batch of transcripts, in float32.

    Args:
        logits: (B, T, W).
        labels: (B, S) token ids.
        real: (B, T) bool, frames that are not padding, on either side; None = all.
        blank: Id of the blank.
        reduction: "mean": each sample's loss by the length of its transcript (1 for an empty one), then the mean of
            the batch. "sum": over the batch.
        zero_infinity: A sample that cannot be aligned has a loss and a gradient of 0. It still counts in the mean.
        num_items: Labels of the whole step where gradients are accumulated. "mean" is then the sum over the samples
            divided by it: labels instead of transcripts are weighted equally. "sum" ignores it.

    Raises:
        ValueError: The labels do not fit the vocabulary or the batch.
    """
    batch, frames, vocabulary = logits.shape
    _check_labels(labels, batch, vocabulary)
    targets, target_lengths = _packed(labels.to(logits.device), blank)
    log_probs = logits.float().log_softmax(dim=-1)
    if real is None:
        lengths = torch.full((batch,), frames, device=logits.device)
    else:
        lengths = real.sum(dim=1)
        rows = torch.arange(batch, device=logits.device)[:, None]
        log_probs = log_probs[rows, _front(real)]
    losses = F.ctc_loss(
        log_probs.transpose(0, 1), targets, lengths, target_lengths, blank, "none", zero_infinity=zero_infinity
    )
    if reduction == "sum":
        return losses.sum()
    if num_items is not None:
        return losses.sum() / num_items
    return (losses / target_lengths.clamp(min=1)).mean()


def _front(keep: Tensor) -> Tensor:
    """Return the indices (B, T) of the True entries of each row in their order, then those of the others."""
    return (~keep).byte().argsort(dim=-1, stable=True)


def _packed(labels: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Return the labels with the padding moved to the end, and the length of each transcript."""
    keep = (labels != IGNORED) & (labels != blank)
    return labels.gather(-1, _front(keep)), keep.sum(dim=-1)


def _check_labels(labels: Tensor, batch: int, vocabulary: int) -> None:
    if labels.is_floating_point() or labels.dim() != 2 or len(labels) != batch:
        raise ValueError(
            f"`labels` must be token ids of shape ({batch}, labels of the longest transcript), padded with {IGNORED}; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if labels.device.type != "cpu" or torch.compiler.is_compiling():  # no waiting for a GPU
        return
    wrong = labels[(labels != IGNORED) & ((labels < 0) | (labels >= vocabulary))]
    if wrong.numel():
        raise ValueError(
            f"`labels` holds {wrong[0].item()}, but the vocabulary of this model has {vocabulary} tokens, 0 to "
            f"{vocabulary - 1}. Load it with those of the tokenizer: `from_pretrained(..., vocab_size=len(tokenizer), "
            "pad_token_id=tokenizer.pad_token_id)`."
        )
