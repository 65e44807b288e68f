"""From raw input to tokens: the front end of a modality is a local encoder and a context encoder after it.

Shapes: B samples, M masks per sample, T tokens, V visible tokens (padded to the most of the batch), E extra tokens,
D hidden size, h x w grid of patches. Masks are True = masked; token masks are True = real.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_data2vec import Data2VecConfig
from .dropout import Dropout
from .local_encoders import AudioLocalEncoder, LocalEncoder, LocalFeatures, TextLocalEncoder, VisionLocalEncoder
from .masking import visible_indices
from .perceiver import CoordinatePositions
from .perceiver_global import perceiver_encoder
from .positions import AlibiBias, ConvPositions, RelativePositionBias, SinCosPositions, reads_weights
from .spectrograms import SpectrogramLocalEncoder


# By modality and front end, as in `MODALITIES`.
LOCAL_ENCODERS: dict[str, dict[str, Callable[..., LocalEncoder]]] = {
    "text": {"embeddings": TextLocalEncoder, "perceiver": perceiver_encoder},
    "vision": {"patches": VisionLocalEncoder, "perceiver": perceiver_encoder},
    "audio": {
        "convolutions": AudioLocalEncoder,
        "spectrogram": SpectrogramLocalEncoder,
        "perceiver": perceiver_encoder,
    },
    "arrays": {"perceiver": perceiver_encoder},
}


@dataclass
class Tokens:
    """Input of the transformer blocks."""

    hidden_states: Tensor  # (B, E + V, D), with B * M rows where tokens were dropped
    token_mask: Tensor | None  # (B, E + V), None = all real
    bias: Tensor | None  # attention bias (B or 1, 1 or H, E + V, E + V), still to be scaled for a layer
    index: Tensor | None = None  # (B * M, V) indices of the visible tokens, None = all
    keep: Tensor | None = None  # (B * M, V) False = filling
    positions: Tensor | None = None  # (T, D) or (B * M, T, D) that were added to all tokens, None = relative ones


class ModalityEncoder(nn.Module):
    """A local encoder, and the context encoder after it: positions, dropping of masked tokens, extra tokens, norm.

    The prenet blocks belong to this module, but the model runs them like the shared ones.
    """

    def __init__(self, config: Data2VecConfig, modality: str, prenet: nn.ModuleList) -> None:
        super().__init__()
        settings = config.modality_config(modality)
        self.config, self.modality = settings, modality
        self.local_encoder = LOCAL_ENCODERS[modality][settings.front_end](config, settings)
        self.num_extra = settings.num_extra_tokens
        self.extra_tokens = self._parameter(self.num_extra > 0, 1, self.num_extra, config.hidden_size)
        self.mask_token = self._parameter(
            config.masked_tokens == "replaced" and not settings.traits.corrupts_input, config.hidden_size
        )
        self.modality_embedding = self._parameter(config.modality_embedding, config.hidden_size)
        self.position_encoder = self.local_encoder.make_positions(config)
        self.reader = self.local_encoder.make_reader(config)
        self.attention_bias = self._attention_bias(config)
        self.prenet = prenet
        self.context_norm = nn.Identity()
        if settings.context_norm:
            eps, affine = config.layer_norm_eps, config.norm_affine
            self.context_norm = nn.LayerNorm(config.hidden_size, eps=eps, elementwise_affine=affine)
        self.norm_first = config.norm_first
        self.dropout = Dropout(settings.prenet_dropout)
        self.blocks_dropout = Dropout(config.input_dropout)
        # Set by the task heads for speech: masks local features in training, beside `mask`.
        self.augment: nn.Module | None = None
        # In the reference, 1.0 zeroes padding before the positions, 2.0 does not; both let it reach the rest.
        self.keeps_padding = config.fairseq_compatible_padding
        self.zeroes_input_padding = self.keeps_padding and config.masked_tokens == "replaced"

    @staticmethod
    def _parameter(present: bool, *shape: int) -> nn.Parameter | None:
        return nn.Parameter(torch.zeros(*shape)) if present else None

    def _attention_bias(self, config: Data2VecConfig) -> nn.Module | None:
        settings, heads = self.config, config.num_attention_heads
        depth = settings.prenet_depth + config.num_hidden_layers
        if settings.alibi is not None:
            return AlibiBias(
                heads,
                depth,
                distance=settings.alibi_distance,
                scale=settings.alibi_scale,
                learned=settings.alibi == "learned",
                per_head=settings.alibi_scale_per_head,
                per_layer=settings.alibi_scale_per_layer,
                biased_heads=settings.alibi_num_heads,
            )
        if getattr(settings, "relative_position_bias", False):
            layers = depth if settings.relative_position_bias_per_layer else None
            return RelativePositionBias(heads, settings.base_grid, layers)
        return None

    @reads_weights
    def contextualize(self, local: LocalFeatures, mask: Tensor | None = None, drop: bool = False) -> Tokens:
        """Turn local features into tokens for the prenet.

        Args:
            local: Output of the local encoder.
            mask: (B, M, T) True = masked, or None.
            drop: Leave masked tokens out (2.0); otherwise they stay in place as the mask vector, or zeros.

        Returns:
            Tokens with B * M rows (B where `mask` is None).
        """
        if self.reader is not None:
            return self._read(local, mask, drop)
        x, token_mask = local.features, local.token_mask
        channels = None
        if self.augment is not None and self.training:
            frames, channels = self.augment(x, token_mask)
            mask = frames[:, None] if mask is None and frames is not None else mask
        mask = self._mask_or_empty(mask, x)
        replaced = mask is not None and self.mask_token is not None
        if replaced:
            x = self._repeat(x, mask.shape[1])
            x = torch.where(mask.flatten(0, 1)[..., None], self.mask_token.to(x.dtype), x)
        if channels is not None:
            x = x.masked_fill(self._repeat(channels, x.shape[0] // channels.shape[0])[:, None], 0)
        if self.zeroes_input_padding and token_mask is not None:
            x = x * self._repeat(token_mask, x.shape[0] // token_mask.shape[0])[..., None].to(x.dtype)
        fixed = None
        if isinstance(self.position_encoder, SinCosPositions):
            fixed = self.position_encoder(local.grid, token_mask).to(x.dtype)
        elif isinstance(self.position_encoder, CoordinatePositions):
            fixed = self.position_encoder(local.coordinates).to(x.dtype)
        if fixed is not None:
            x = x + (fixed if fixed.dim() == 2 else self._repeat(fixed, x.shape[0] // fixed.shape[0]))

        index, keep = None, None
        if mask is not None:
            if drop:
                index, keep = self._visible(mask, None if self.keeps_padding else token_mask)
            x, token_mask = self._with_positions(x, token_mask, mask, replaced, index)
            if keep is not None:
                token_mask = keep if token_mask is None else keep & token_mask
        elif isinstance(self.position_encoder, ConvPositions):
            x = x + self.position_encoder(x, token_mask)

        bias = None
        if self.attention_bias is not None:
            places = torch.arange(x.shape[1], device=x.device)[None] if index is None else index
            bias = self.attention_bias(places, local.grid, self.num_extra)
        if self.num_extra:
            x = torch.cat([self.extra_tokens.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
            token_mask = None if token_mask is None else F.pad(token_mask, (self.num_extra, 0), value=True)
        x = x if self.norm_first else self.context_norm(x)
        return Tokens(self.dropout(x), token_mask, bias, index, keep, fixed)

    def _mask_or_empty(self, mask: Tensor | None, x: Tensor) -> Tensor | None:
        """Return the mask, or an empty one where distributed engines need a gradient of the mask vector."""
        if mask is None and self.training and self.mask_token is not None and self.mask_token.requires_grad:
            return x.new_zeros(x.shape[0], 1, x.shape[1], dtype=torch.bool)
        return mask

    def _read(self, local: LocalFeatures, mask: Tensor | None, drop: bool) -> Tokens:
        """Have latents read the visible elements, for front ends whose tokens are latents."""
        if self.augment is not None and self.training:
            frames, channels = self.augment(local.features, local.token_mask)
            mask = frames[:, None] if mask is None and frames is not None else mask
            if channels is not None:
                local = replace(local, features=local.features.masked_fill(channels[:, None], 0))
        mask = self._mask_or_empty(mask, local.features)
        x, token_mask, index, keep = self.reader(local, mask, drop)
        if mask is not None and self.mask_token is not None:
            visible = self.reader.any_of_cell(local, ~mask.flatten(0, 1), mask.shape[1])
            visible = F.pad(visible, (self.num_extra, 0), value=True)
            x = torch.where(visible[..., None], x, self.mask_token.to(x.dtype))
        positions = self.position_encoder(local.coordinates).to(x.dtype)
        if self.reader.anchored:
            placed = self.position_encoder(self.reader.anchors(local)).to(x.dtype)
            x = x + F.pad(placed if index is None else placed[index], (0, 0, self.num_extra, 0))
        bias = None
        if self.attention_bias is not None:
            places = torch.arange(positions.shape[0], device=x.device)[None] if index is None else index
            bias = self.attention_bias(places, local.grid, self.num_extra)
        if self.num_extra:
            x = x + F.pad(self.extra_tokens.to(x.dtype), (0, 0, 0, x.shape[1] - self.num_extra))
        x = x if self.norm_first else self.context_norm(x)
        return Tokens(self.dropout(x), token_mask, bias, index, keep, positions)

    def to_tokens(self, local: LocalFeatures) -> Callable[[Tensor], Tensor] | None:
        """Return the map from what the blocks give for latents (R, L, D), without extra tokens, to the tokens
        (R, T, D); None where the latents are the tokens."""
        return None if self.config.latents_are_tokens else self.reader.to_groups(local)

    def expand(self, tokens: Tokens, hidden: Tensor, local: LocalFeatures) -> tuple[Tokens, Tensor]:
        """Return what `Data2VecModel.encode` returns for latents, at the extra tokens and tokens (R, E + T, D)."""
        to_tokens = self.to_tokens(local)
        if to_tokens is None:
            return tokens, hidden
        extra, latents = hidden[:, : self.num_extra], hidden[:, self.num_extra :]
        real = local.token_mask
        if real is not None:
            real = F.pad(self._repeat(real, len(hidden) // len(real)), (self.num_extra, 0), value=True)
        return replace(tokens, token_mask=real), torch.cat([extra, to_tokens(latents)], dim=1)

    @staticmethod
    def _visible(mask: Tensor, token_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return indices of the visible tokens, at least one column, and which are not filling (None = all)."""
        index, keep = visible_indices(mask, token_mask)
        if index.shape[1] == 0:
            index, keep = visible_indices(mask, token_mask, size=1)
        return index, None if keep.all() else keep

    def _with_positions(
        self, x: Tensor, token_mask: Tensor | None, mask: Tensor, replaced: bool, index: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Hide masked tokens, add relative positions that cannot see them, keep visible ones if `index`."""
        repeats = mask.shape[1]
        full_mask = None if token_mask is None else self._repeat(token_mask, repeats)
        relative = isinstance(self.position_encoder, ConvPositions)
        hidden = x
        if relative or index is None:
            hidden = x if replaced else self._repeat(x, repeats).masked_fill(mask.flatten(0, 1)[..., None], 0)
        positions = self.position_encoder(hidden, full_mask) if relative else None
        if index is None:
            return hidden if positions is None else hidden + positions, full_mask
        # Visible tokens are gathered from the B samples, without repeating tokens that are then dropped.
        rows = torch.arange(index.shape[0], device=x.device)[:, None]
        kept = x[rows // repeats, index]
        if positions is not None:
            kept = kept + positions[rows, index]
        return kept, None if full_mask is None else full_mask[rows, index]

    @staticmethod
    def _repeat(x: Tensor, repeats: int) -> Tensor:
        return x if repeats == 1 else x.repeat_interleave(repeats, dim=0)

    @reads_weights
    def finish(self, tokens: Tokens) -> Tokens:
        """Apply what follows the prenet: the context norm of pre-norm models, the modality's vector, and dropout."""
        if self.norm_first:
            tokens.hidden_states = self.context_norm(tokens.hidden_states)
        if self.modality_embedding is not None:
            tokens.hidden_states = tokens.hidden_states + self.modality_embedding.to(tokens.hidden_states.dtype)
        tokens.hidden_states = self.blocks_dropout(tokens.hidden_states)
        return tokens
