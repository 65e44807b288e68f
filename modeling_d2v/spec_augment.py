"""Masks of time and channel spans for fine-tuning on speech (SpecAugment, Park et al. 2019).

wav2vec 2.0 applies it to the features after the convolutions (Baevski et al. 2020, appendix B), as do both versions of
data2vec: masked frames become the mask token or zeros, masked channels zeros in all frames.

Unlike the masks of pretraining, these are drawn from torch's generator, like dropout.

Shapes: B samples, T frames, D channels.
"""

import torch
from torch import Tensor, nn

from .configuration_audio import Data2VecAudioConfig


def draw_spans(real: Tensor, prob: float, length: int, min_spans: int = 0) -> Tensor:
    """Draw spans of fixed length in each row, independently of the other rows.

    A row of n real positions gets n * prob / length spans, rounded up or down at random so that the mean is exact, and
    at least `min_spans`. Their starts are distinct and uniform; spans may overlap. There are at most (n - 1) // length
    spans, so that a position of every row stays visible.

    Args:
        real: (B, T) bool, True = may be hidden. The True positions of a row are consecutive.
        prob: Share of the positions if spans did not overlap, in [0, 1).
        length: Positions in a span.
        min_spans: Least number of spans, if that many fit.

    Returns:
        (B, T) bool, True = hidden.
    """
    places = real.sum(dim=1, keepdim=True)
    wanted = torch.floor(places * (prob / length) + torch.rand(len(real), 1, device=real.device)).clamp(min=min_spans)
    spans = torch.minimum(wanted.long(), (places - 1).clamp(min=0) // length)
    # A start needs `length` real positions; the first ones of a random ranking are taken.
    last = nn.functional.pad(real, (0, length))[:, length - 1 : length - 1 + real.shape[1]]
    rank = torch.rand(real.shape, device=real.device).masked_fill(~(real & last), -1.0)
    rank = rank.argsort(dim=1, descending=True).argsort(dim=1)
    started = nn.functional.pad((rank < spans).long().cumsum(dim=1), (length, 0))
    return started[:, length:] > started[:, :-length]


class SpecAugment(nn.Module):
    """Random time and channel masks of a batch; see `Data2VecAudioConfig` for the settings."""

    def __init__(self, config: Data2VecAudioConfig) -> None:
        super().__init__()
        self.time = (config.mask_time_prob, config.mask_time_length, config.mask_time_min_masks)
        self.tokens_per_frame = config.tokens_per_frame
        self.channels = (config.mask_feature_prob, config.mask_feature_length, config.mask_feature_min_masks)

    def extra_repr(self) -> str:
        return f"time={self.time}, channels={self.channels}"

    def forward(self, features: Tensor, token_mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Draw both kinds of masks.

        Args:
            features: (B, T, D).
            token_mask: (B, T) True = real, or None.

        Returns:
            Hidden tokens (B, T), in whole time steps, and hidden channels (B, D), bool; each is `None` if its
            probability is 0.
        """
        batch, tokens, width = features.shape
        hidden_frames, hidden_channels = None, None
        if self.time[0] > 0:
            real = features.new_ones(batch, tokens, dtype=torch.bool) if token_mask is None else token_mask
            hidden_frames = draw_spans(real[:, :: self.tokens_per_frame], *self.time)
            hidden_frames = hidden_frames.repeat_interleave(self.tokens_per_frame, dim=1)
        if self.channels[0] > 0:
            hidden_channels = draw_spans(features.new_ones(batch, width, dtype=torch.bool), *self.channels)
        return hidden_frames, hidden_channels
