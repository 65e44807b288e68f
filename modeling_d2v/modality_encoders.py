"""From raw input to tokens: one front end per modality, and the context encoder that all of them share.

Shapes: B samples, M masks per sample, T tokens, V visible tokens (padded to the most of the batch), E extra tokens,
D hidden size, h x w grid of patches. Masks are True = masked; token masks are True = real.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .masking import visible_indices
from .positions import (
    FIXED_EPS,
    AlibiBias,
    ConvPositions,
    RelativePositionBias,
    SinCosPositions,
    TimeConv1d,
    text_positions,
)


@dataclass
class LocalFeatures:
    """What a local encoder gives: nothing in it depends on the mask, so it is computed once for all M masks."""

    features: Tensor  # (B, T, D)
    token_mask: Tensor | None  # (B, T), None = all real
    grid: tuple[int, int] | None = None


@dataclass
class Tokens:
    """Input of the transformer blocks."""

    hidden_states: Tensor  # (B, E + V, D), with B * M rows where tokens were dropped
    token_mask: Tensor | None  # (B, E + V), None = all real
    bias: Tensor | None  # attention bias (B or 1, 1 or H, E + V, E + V), still to be scaled for a layer
    index: Tensor | None = None  # (B * M, V) places of the visible tokens, None = all
    keep: Tensor | None = None  # (B * M, V) False = filling


def check_token_ids(input_ids: Tensor, table: nn.Module) -> None:
    """Checks that an embedding table has a row for every id.

    Ids on a GPU are not read: that would make the host wait for it in every step. There PyTorch itself stops, with a
    device-side assertion.

    Raises:
        ValueError: naming the first wrong id and the size of the vocabulary.
    """
    if input_ids.device.type != "cpu" or torch.compiler.is_compiling():
        return
    rows = table.weight.shape[0]
    wrong = input_ids[(input_ids < 0) | (input_ids >= rows)]
    if wrong.numel():
        raise ValueError(
            f"`input_ids` holds {wrong[0].item()}; the vocabulary of this model goes from 0 to {rows - 1}. Check that "
            "the tokenizer is the one that the model was trained with. Where it has got new tokens, give them rows: "
            "`model.resize_token_embeddings(len(tokenizer))`."
        )


class TextLocalEncoder(nn.Module):
    """Token + learned position embedding, layer norm, dropout."""

    def __init__(self, config: Data2VecConfig, text: Data2VecModalityConfig) -> None:
        super().__init__()
        pad, size = text.pad_token_id, config.hidden_size
        self.pad_token_id, self.max_tokens = pad, text.max_position_embeddings
        self.token_embeddings = nn.Embedding(text.vocab_size, size, padding_idx=pad)
        self.position_embeddings = nn.Embedding(text.max_position_embeddings + pad + 1, size, padding_idx=pad)
        self.layer_norm = nn.LayerNorm(size, eps=text.local_norm_eps)
        self.dropout = nn.Dropout(text.embedding_dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        if input_ids.dim() != 2 or input_ids.is_floating_point():
            raise ValueError(
                f"`input_ids` must be integers of shape (batch, tokens); got {input_ids.dtype} of shape "
                f"{tuple(input_ids.shape)}."
            )
        if not 0 < input_ids.shape[1] <= self.max_tokens:
            raise ValueError(
                f"`input_ids` has {input_ids.shape[1]} tokens; this model takes 1 to {self.max_tokens} "
                "(`text_config.max_position_embeddings`). Skip empty texts; truncate or split long ones."
            )
        check_token_ids(input_ids, self.token_embeddings)
        token_mask = input_ids.ne(self.pad_token_id) if attention_mask is None else attention_mask.bool()
        if not torch.compiler.is_compiling() and token_mask.all():
            token_mask = None
        positions = self.position_embeddings(text_positions(input_ids, self.pad_token_id, token_mask))
        features = self.dropout(self.layer_norm(self.token_embeddings(input_ids) + positions))
        return LocalFeatures(features, token_mask)


class VisionLocalEncoder(nn.Module):
    """Patch embedding: a convolution whose stride is its kernel."""

    def __init__(self, config: Data2VecConfig, vision: Data2VecModalityConfig) -> None:
        super().__init__()
        dim = vision.embed_dim or config.hidden_size
        self.vision = vision
        self.projection = nn.Conv2d(vision.num_channels, dim, vision.patch_size, stride=vision.patch_size)
        self.expand = nn.Linear(dim, config.hidden_size) if dim != config.hidden_size else nn.Identity()

    def forward(self, pixel_values: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.vision.num_channels:
            raise ValueError(
                f"`pixel_values` must have shape (batch, {self.vision.num_channels}, height, width); got "
                f"{tuple(pixel_values.shape)}."
            )
        if attention_mask is not None:
            raise ValueError("Images are not padded: call the model without `attention_mask`.")
        grid = self.vision.grid_size(*pixel_values.shape[2:])
        patches = self.projection(pixel_values.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        return LocalFeatures(self.expand(patches), None, grid)


class AudioConvLayer(nn.Module):
    """Convolution, layer norm over channels, GELU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.conv = TimeConv1d(inputs, outputs, kernel, stride=stride, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(outputs, eps=FIXED_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.layer_norm(self.dropout(self.conv(x))))


class AudioLocalEncoder(nn.Module):
    """Strided convolutions over the raw waveform, layer norm, linear to D."""

    def __init__(self, config: Data2VecConfig, audio: Data2VecModalityConfig) -> None:
        super().__init__()
        self.audio = audio
        channels = [1, *audio.conv_dim]
        shapes = zip(channels[:-1], channels[1:], audio.conv_kernel, audio.conv_stride, strict=True)
        self.conv_layers = nn.ModuleList(
            [AudioConvLayer(*shape, audio.conv_bias, audio.conv_dropout) for shape in shapes]
        )
        self.layer_norm = nn.LayerNorm(channels[-1], eps=audio.local_norm_eps)
        self.projection = nn.Linear(channels[-1], config.hidden_size)
        self.dropout = nn.Dropout(audio.feat_proj_dropout)

    def forward(self, input_values: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        audio = self.audio
        if input_values.dim() != 2 or not input_values.is_floating_point():
            raise ValueError(
                "`input_values` must be floats of shape (batch, samples), one channel; got "
                f"{input_values.dtype} of shape {tuple(input_values.shape)}."
            )
        if audio.num_frames(input_values.shape[1]) < 1:
            raise ValueError(
                f"`input_values` has {input_values.shape[1]} samples; one frame needs {audio.frame_width} "
                f"({1000 * audio.frame_width / audio.sampling_rate:g} ms at {audio.sampling_rate} Hz). Skip or pad "
                "shorter recordings."
            )
        x = input_values[..., None].to(self.projection.weight.dtype)
        for layer in self.conv_layers:
            x = layer(x)
        features = self.dropout(self.projection(self.layer_norm(x)))
        return LocalFeatures(features, None if attention_mask is None else self._frames(attention_mask.bool()))

    def _frames(self, sample_mask: Tensor) -> Tensor:
        """Sample mask (B, samples) -> frame mask (B, T): a frame is real if its first and last samples are."""
        width, stride = self.audio.frame_width, self.audio.frame_stride
        first = sample_mask[:, : sample_mask.shape[1] - width + 1 : stride]
        return first & sample_mask[:, width - 1 :: stride]


LOCAL_ENCODERS = {"text": TextLocalEncoder, "vision": VisionLocalEncoder, "audio": AudioLocalEncoder}


class ModalityEncoder(nn.Module):
    """A local encoder, and the context encoder after it: positions, dropping of masked tokens, extra tokens, norm.

    The prenet blocks are kept here, but run by the model: they are blocks like the shared ones.
    """

    def __init__(self, config: Data2VecConfig, modality: str, prenet: nn.ModuleList) -> None:
        super().__init__()
        mine = config.modality_config(modality)
        self.config, self.modality = mine, modality
        self.local_encoder = LOCAL_ENCODERS[modality](config, mine)
        self.extra_tokens = self._parameter(mine.num_extra_tokens > 0, 1, mine.num_extra_tokens, config.hidden_size)
        self.mask_token = self._parameter(
            config.masked_tokens == "replaced" and modality != "text", config.hidden_size
        )
        self.position_encoder = self._position_encoder(config)
        self.attention_bias = self._attention_bias(config)
        self.prenet = prenet
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if mine.context_norm else nn.Identity()
        self.context_norm = norm
        self.norm_first = config.norm_first
        self.dropout = nn.Dropout(mine.prenet_dropout)
        self.num_extra = mine.num_extra_tokens
        # Set by the task heads for speech: what is hidden of the local features in training, beside `mask`.
        self.augment: nn.Module | None = None
        # Padding in the reference: 1.0 zeroes it before the positions, 2.0 not at all, both let it reach the rest.
        self.keeps_padding = config.fairseq_compatible_padding
        self.zeroes_input_padding = self.keeps_padding and config.masked_tokens == "replaced"

    @staticmethod
    def _parameter(present: bool, *shape: int) -> nn.Parameter | None:
        return nn.Parameter(torch.zeros(*shape)) if present else None

    def _position_encoder(self, config: Data2VecConfig) -> nn.Module | None:
        mine = self.config
        if self.modality == "vision" and mine.position_embedding == "sincos_2d":
            return SinCosPositions(config.hidden_size, mine.grid_size(mine.image_size, mine.image_size))
        if self.modality == "audio" and mine.conv_pos_depth:
            return ConvPositions(
                config.hidden_size,
                mine.conv_pos_depth,
                mine.conv_pos_width,
                mine.conv_pos_groups,
                zero_padding=not config.fairseq_compatible_padding,
            )
        return None

    def _attention_bias(self, config: Data2VecConfig) -> nn.Module | None:
        mine, heads = self.config, config.num_attention_heads
        if mine.alibi is not None:
            return AlibiBias(
                heads,
                mine.prenet_depth + config.num_hidden_layers,
                distance=mine.alibi_distance,
                scale=mine.alibi_scale,
                learned=mine.alibi == "learned",
                per_head=mine.alibi_scale_per_head,
                per_layer=mine.alibi_scale_per_layer,
            )
        if self.modality == "vision" and mine.relative_position_bias:
            layers = mine.prenet_depth + config.num_hidden_layers if mine.relative_position_bias_per_layer else None
            return RelativePositionBias(heads, mine.grid_size(mine.image_size, mine.image_size), layers)
        return None

    def contextualize(self, local: LocalFeatures, mask: Tensor | None = None, drop: bool = False) -> Tokens:
        """Local features -> tokens for the prenet.

        Args:
            local: from the local encoder.
            mask: (B, M, T) True = masked, or None.
            drop: leave masked tokens out (2.0); otherwise they stay in place as the mask vector, or zeros.

        Returns:
            Tokens with B * M rows (B where `mask` is None).
        """
        x, token_mask = local.features, local.token_mask
        channels = None
        if self.augment is not None and self.training:
            frames, channels = self.augment(x, token_mask)
            mask = frames[:, None] if mask is None and frames is not None else mask
        if mask is None and self.training and self.mask_token is not None and self.mask_token.requires_grad:
            # An empty mask: distributed engines need a gradient of every parameter in every step.
            mask = x.new_zeros(x.shape[0], 1, x.shape[1], dtype=torch.bool)
        replaced = mask is not None and self.mask_token is not None
        if replaced:
            x = self._repeat(x, mask.shape[1])
            x = torch.where(mask.flatten(0, 1)[..., None], self.mask_token.to(x.dtype), x)
        if channels is not None:
            x = x.masked_fill(self._repeat(channels, x.shape[0] // channels.shape[0])[:, None], 0)
        if self.zeroes_input_padding and token_mask is not None:
            x = x * self._repeat(token_mask, x.shape[0] // token_mask.shape[0])[..., None].to(x.dtype)
        if isinstance(self.position_encoder, SinCosPositions):
            x = x + self.position_encoder(local.grid).to(x.dtype)

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
        return Tokens(self.dropout(x), token_mask, bias, index, keep)

    @staticmethod
    def _visible(mask: Tensor, token_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Places of the visible tokens, at least one column, and which of them are no filling (None = all)."""
        index, keep = visible_indices(mask, token_mask)
        if index.shape[1] == 0:
            index, keep = visible_indices(mask, token_mask, size=1)
        return index, None if keep.all() else keep

    def _with_positions(
        self, x: Tensor, token_mask: Tensor | None, mask: Tensor, replaced: bool, index: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Hides masked tokens, adds relative positions that cannot see them, keeps the visible ones if `index`."""
        repeats = mask.shape[1]
        full_mask = None if token_mask is None else self._repeat(token_mask, repeats)
        relative = isinstance(self.position_encoder, ConvPositions)
        hidden = x
        if relative or index is None:
            hidden = x if replaced else self._repeat(x, repeats).masked_fill(mask.flatten(0, 1)[..., None], 0)
        positions = self.position_encoder(hidden, full_mask) if relative else None
        if index is None:
            return hidden if positions is None else hidden + positions, full_mask
        # Visible tokens are gathered straight from the B samples: nothing is repeated that is then dropped.
        rows = torch.arange(index.shape[0], device=x.device)[:, None]
        kept = x[rows // repeats, index]
        if positions is not None:
            kept = kept + positions[rows, index]
        return kept, None if full_mask is None else full_mask[rows, index]

    @staticmethod
    def _repeat(x: Tensor, repeats: int) -> Tensor:
        return x if repeats == 1 else x.repeat_interleave(repeats, dim=0)

    def finish(self, tokens: Tokens) -> Tokens:
        """After the prenet: the context norm of pre-norm models."""
        if self.norm_first:
            tokens.hidden_states = self.context_norm(tokens.hidden_states)
        return tokens
