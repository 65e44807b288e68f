"""From the student's output to predictions: the decoders of 2.0, the regression head of 1.0.

Shapes: B samples, M masks per sample, T tokens, V visible tokens, E extra tokens, D hidden size, C decoder width.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask

from .blocks import BlockSizes, make_blocks, run_blocks
from .configuration_data2vec import SHARED_DECODER, Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .dropout import Dropout
from .local_encoders import LocalFeatures
from .masking import counter_bits, counter_uniform, visible_indices
from .modality_encoders import Tokens
from .positions import FIXED_EPS, channel_norm
from .time_convolutions import SameConv1d


NOISE_STREAM, POOL_STREAM, POOL_SIZE = 16, 17, 1 << 16


@torch.no_grad()
def pooled_noise(like: Tensor, shape: tuple[int, int, int], key: dict[str, Any]) -> Tensor:
    """Return standard normal noise (B * M, T, D), a function of seed, step, sample, mask and position.

    The global generator would make it depend on the number of processes and micro-batches. Each position takes D
    consecutive numbers of a fixed pool, from a random start: far cheaper than one draw for each element.

    Args:
        like: Tensor of the wanted D, dtype and device.
        shape: (B, M, T).
        key: `seed`, `step` and `sample_ids` (B,).
    """
    samples, masks, length = shape
    size, device = like.shape[-1], like.device
    one = torch.zeros(1, dtype=torch.int64, device=device)
    count = POOL_SIZE + size
    uniform = counter_uniform(key["seed"], 0, one, count=2 * (count // 2 + 1), stream=POOL_STREAM).view(2, -1)
    radius, angle = torch.sqrt(-2 * torch.log1p(-uniform[0])), 2 * math.pi * uniform[1]  # Box and Muller 1958
    pool = torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].to(like.dtype)
    start = counter_bits(**key, count=length, repeats=masks, stream=NOISE_STREAM) & (POOL_SIZE - 1)  # (B, M, T)
    return pool.unfold(0, size, 1)[start.view(samples * masks, length)]


class SameConv2d(nn.Conv2d):
    """Convolution over a grid that keeps its size; input and output are (B, h, w, C)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x.permute(0, 3, 1, 2))
        return (out[..., :-1, :-1] if self.kernel_size[0] % 2 == 0 else out).permute(0, 2, 3, 1)


# By the geometry of the tokens.
CONVOLUTIONS = {"line": SameConv1d, "grid": SameConv2d}


def make_projection(inputs: int, outputs: int, layers: int, ratio: float) -> nn.Sequential:
    """Return `layers` linear layers with GELU between; the hidden ones are `ratio` times as wide as the input.

    Without layers it is the identity.
    """
    if layers == 0:
        return nn.Sequential()
    hidden = int(inputs * ratio)
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        parts += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*parts[:-1])


class RegressionHead(nn.Module):
    """Prediction of 1.0: a projection of the masked tokens, which the student keeps in place."""

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__()
        layers, ratio = settings.decoder_projection_layers, settings.decoder_projection_ratio
        self.projection = make_projection(config.hidden_size, config.hidden_size, layers, ratio)

    def features(
        self, hidden: Tensor, tokens: Tokens, local: LocalFeatures, mask: Tensor, key: dict[str, Any] | None = None
    ) -> Tensor:
        """Map `hidden` (B * M, E + T, D) to (B * M, T, D)."""
        return hidden[:, hidden.shape[1] - mask.shape[-1] :]


class Decoder(nn.Module):
    """Prediction of 2.0, from the visible tokens at their positions with noise at masked ones.

    Args:
        config: Configuration of the model.
        settings: Configuration of the modality.
    """

    projection: nn.Sequential

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__()
        self.input_dropout = Dropout(settings.decoder_input_dropout)
        self.noise_std, self.num_extra = settings.mask_noise_std, settings.num_extra_tokens
        self.zero_padding = not config.fairseq_compatible_padding
        self.normal_projection = settings.normal_projection
        self.positions_masked, self.positions_all = settings.decoder_positions_masked, settings.decoder_positions_all

    def make_outputs(self, config: Data2VecConfig, settings: Data2VecModalityConfig, width: int) -> None:
        """Add the layers from features (`width` channels) to predictions, and from those to pixels, if configured."""
        layers, ratio = settings.decoder_projection_layers, settings.decoder_projection_ratio
        self.projection = make_projection(width, config.hidden_size, layers, ratio)
        weight = getattr(settings, "reconstruction_loss_weight", 0.0)
        self.reconstruction = nn.Linear(config.hidden_size, settings.patch_values) if weight else None

    def features(
        self, hidden: Tensor, tokens: Tokens, local: LocalFeatures, mask: Tensor, key: dict[str, Any] | None = None
    ) -> Tensor:
        """Map `hidden` (B * M, E + V, D) to (B * M, T, C) at all positions. In training, `key` gives the noise."""
        return self.decode(self.restore(hidden, tokens, mask, key), self.real_tokens(local, mask), local.grid)

    def decode(self, x: Tensor, real: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        """Map the input at all positions (B * M, T, D) to features (B * M, T, C).

        Args:
            x: See `restore`.
            real: (B * M, T) False where padding must not take part, None = all real.
            grid: Rows and columns of the T positions, None for a sequence.
        """
        raise NotImplementedError

    def real_tokens(self, local: LocalFeatures, mask: Tensor) -> Tensor | None:
        """Return the token mask (B * M, T), None where padding takes part or there is none."""
        if not self.zero_padding or local.token_mask is None:
            return None
        return local.token_mask.repeat_interleave(mask.shape[1], dim=0)

    def restore(self, hidden: Tensor, tokens: Tokens, mask: Tensor, key: dict[str, Any] | None) -> Tensor:
        """Return visible tokens at their positions (B * M, T, D), noise at the others."""
        length = mask.shape[-1]
        visible = self.input_dropout(hidden)[:, self.num_extra :]
        # One extra position receives the filling of the visible set, and is cut off.
        x = visible.new_zeros(visible.shape[0], length + 1, visible.shape[2])
        if self.noise_std and self.training and key is not None:
            x[:, :length] = pooled_noise(visible, mask.shape, key) * self.noise_std
        places = tokens.index if tokens.keep is None else torch.where(tokens.keep, tokens.index, length)
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        x = x.index_put((rows, places), visible)[:, :length]
        if self.positions_masked:
            x = x + self._repeated(tokens.positions, mask) * mask.flatten(0, 1)[..., None].to(x.dtype)
        return x + self._repeated(tokens.positions, mask) if self.positions_all else x

    @staticmethod
    def _repeated(positions: Tensor, mask: Tensor) -> Tensor:
        """Return positions of the B samples for the rows of B * M masks."""
        return positions if positions.dim() == 2 else positions.repeat_interleave(mask.shape[1], dim=0)


class ConvDecoder(Decoder):
    """Decoder of convolutions over time, or over rows and columns.

    Args:
        config, settings: As of every decoder.
        geometry: "line" or "grid". Default: that of the front end.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig, geometry: str | None = None) -> None:
        super().__init__(config, settings)
        conv = CONVOLUTIONS[geometry or settings.traits.geometry]
        widths = [config.hidden_size, *[settings.decoder_hidden_size] * settings.decoder_layers]
        self.convs = nn.ModuleList(
            [
                conv(before, after, settings.decoder_kernel_size, settings.decoder_groups)
                for before, after in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.two_d, self.residual = conv is SameConv2d, settings.decoder_residual
        self.make_outputs(config, settings, widths[-1])

    def decode(self, x: Tensor, real: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        if real is not None:
            real = real[..., None].to(x.dtype)
        if self.two_d:
            x = x.unflatten(1, grid)
            real = None if real is None else real.unflatten(1, grid)
        for conv in self.convs:
            inputs = x if real is None else x * real
            x = F.gelu(channel_norm(conv(inputs)))
            if self.residual and x.shape == inputs.shape:
                x = x + inputs
        return x.flatten(1, 2) if self.two_d else x


class TransformerDecoder(Decoder):
    """Decoder of transformer blocks over all positions, like that of MAE (He et al. 2022)."""

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        size = settings.decoder_hidden_size
        sizes = BlockSizes(size, settings.decoder_num_attention_heads, settings.decoder_intermediate_size or 4 * size)
        self.config = config
        self.input_projection = nn.Linear(config.hidden_size, size)
        self.blocks = make_blocks(config, settings.decoder_layers, 0.0, sizes)
        self.make_outputs(config, settings, size)
        self.normal_projection = True  # as all of its layers in the reference

    def decode(self, x: Tensor, real: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        x = self.input_projection(x)
        attention = create_bidirectional_mask(self.config, x, real)
        return run_blocks(self.blocks, x, [(attention, None)] * len(self.blocks))


class CrossAttention(nn.Module):
    """Attention of queries (B, N, C) to other tokens (B, V, D)."""

    def __init__(self, config: Data2VecConfig, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(config.hidden_size, 2 * size)
        self.projection = nn.Linear(size, size)

    def forward(self, queries: Tensor, visible: Tensor, real: Tensor | None) -> Tensor:
        """Return (B, N, C); `real` (B, V) is False at tokens that are not attended to, None = all are."""
        rows, places, size = queries.shape
        query = self.query(queries).view(rows, places, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(visible).view(rows, visible.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if real is None else real[:, None, None]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.projection(out.transpose(1, 2).reshape(rows, places, size))


class CrossAttentionBlock(nn.Module):
    """Cross-attention and a feed-forward part, each with a norm after it.

    Args:
        config: Configuration of the model.
        sizes: Sizes of the block.
        residual: Add the queries to what they attend to.
    """

    def __init__(self, config: Data2VecConfig, sizes: BlockSizes, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.LayerNorm(sizes.hidden, eps=FIXED_EPS)
        self.attention = CrossAttention(config, sizes.hidden, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.hidden, eps=FIXED_EPS)
        self.fc1 = nn.Linear(sizes.hidden, sizes.intermediate)
        self.fc2 = nn.Linear(sizes.intermediate, sizes.hidden)

    def forward(self, queries: Tensor, visible: Tensor, real: Tensor | None) -> Tensor:
        attended = self.attention(queries, visible, real)
        x = self.norm1(queries + attended if self.residual else attended)
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


class CrossAttentionDecoder(Decoder):
    """Decoder whose queries are the positions of the masked tokens, which attend to the visible tokens."""

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        size = settings.decoder_hidden_size
        sizes = BlockSizes(size, settings.decoder_num_attention_heads, settings.decoder_intermediate_size or 4 * size)
        self.input_projection = nn.Linear(config.hidden_size, size)
        # The first queries hold positions alone.
        self.blocks = nn.ModuleList(
            [CrossAttentionBlock(config, sizes, i > 0) for i in range(settings.decoder_layers)]
        )
        self.make_outputs(config, settings, size)
        self.normal_projection = True

    def features(
        self, hidden: Tensor, tokens: Tokens, local: LocalFeatures, mask: Tensor, key: dict[str, Any] | None = None
    ) -> Tensor:
        visible = self.input_dropout(hidden)[:, self.num_extra :]
        rows = torch.arange(visible.shape[0], device=visible.device)[:, None]
        positions = tokens.positions
        if positions.dim() == 2:
            positions = positions.expand(visible.shape[0], -1, -1)
        else:
            positions = positions.repeat_interleave(mask.shape[1], dim=0)
        if self.positions_all:
            visible = visible + positions[rows, tokens.index]
        real = None if tokens.token_mask is None else tokens.token_mask[:, self.num_extra :]
        index, keep = visible_indices(~mask)
        x = self.input_projection(positions[rows, index])
        for block in self.blocks:
            x = block(x, visible, real)
        # One extra position receives the filling of the masked set, and is cut off.
        length = mask.shape[-1]
        out = x.new_zeros(x.shape[0], length + 1, x.shape[2])
        return out.index_put((rows, torch.where(keep, index, length)), x)[:, :length]


DECODERS: dict[str, type[Decoder]] = {
    "convolutions": ConvDecoder,
    "transformer": TransformerDecoder,
    "cross_attention": CrossAttentionDecoder,
}


def make_decoder(config: Data2VecConfig, settings: Data2VecModalityConfig) -> nn.Module:
    """Return the part of a pretraining model that predicts the targets of a modality."""
    if config.masked_tokens == "replaced":
        return RegressionHead(config, settings)
    return DECODERS[settings.decoder_type](config, settings)


def make_shared_decoder(config: Data2VecConfig) -> ConvDecoder:
    """Return the second decoder of a model with `shared_decoder`, which sees every modality as a sequence."""
    settings = copy.copy(config.modality_config(config.modalities[0]))
    for name, value in {**SHARED_DECODER, **config.shared_decoder}.items():
        setattr(settings, name, value)
    settings.reconstruction_loss_weight = 0.0
    return ConvDecoder(config, settings, geometry="line")
