"""From the student's output to predictions: the decoders of 2.0, the regression head of 1.0.

Shapes: B samples, M masks per sample, T tokens, V visible tokens, E extra tokens, D hidden size, C decoder width.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import create_bidirectional_mask

from .blocks import BlockSizes, make_blocks, run_blocks
from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .local_encoders import LocalFeatures
from .masking import counter_bits, counter_uniform
from .modality_encoders import Tokens
from .positions import SameConv1d, channel_norm


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
        self.input_dropout = nn.Dropout(settings.decoder_input_dropout)
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
        raise NotImplementedError

    def _real(self, local: LocalFeatures, mask: Tensor) -> Tensor | None:
        """Return the token mask (B * M, T), None where padding takes part or there is none."""
        if not self.zero_padding or local.token_mask is None:
            return None
        return local.token_mask.repeat_interleave(mask.shape[1], dim=0)

    def _restore(self, hidden: Tensor, tokens: Tokens, mask: Tensor, key: dict[str, Any] | None) -> Tensor:
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
    """Decoder of convolutions over time, or over rows and columns."""

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__(config, settings)
        conv = CONVOLUTIONS[settings.traits.geometry]
        widths = [config.hidden_size, *[settings.decoder_hidden_size] * settings.decoder_layers]
        self.convs = nn.ModuleList(
            [
                conv(before, after, settings.decoder_kernel_size, settings.decoder_groups)
                for before, after in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.two_d, self.residual = conv is SameConv2d, settings.decoder_residual
        self.make_outputs(config, settings, widths[-1])

    def features(
        self, hidden: Tensor, tokens: Tokens, local: LocalFeatures, mask: Tensor, key: dict[str, Any] | None = None
    ) -> Tensor:
        x = self._restore(hidden, tokens, mask, key)
        real = self._real(local, mask)
        if real is not None:
            real = real[..., None].to(x.dtype)
        if self.two_d:
            x = x.unflatten(1, local.grid)
            real = None if real is None else real.unflatten(1, local.grid)
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

    def features(
        self, hidden: Tensor, tokens: Tokens, local: LocalFeatures, mask: Tensor, key: dict[str, Any] | None = None
    ) -> Tensor:
        x = self.input_projection(self._restore(hidden, tokens, mask, key))
        attention = create_bidirectional_mask(self.config, x, self._real(local, mask))
        return run_blocks(self.blocks, x, [(attention, None)] * len(self.blocks))


DECODERS: dict[str, type[Decoder]] = {"convolutions": ConvDecoder, "transformer": TransformerDecoder}


def make_decoder(config: Data2VecConfig, settings: Data2VecModalityConfig) -> nn.Module:
    """Return the part of a pretraining model that predicts the targets of a modality."""
    if config.masked_tokens == "replaced":
        return RegressionHead(config, settings)
    return DECODERS[settings.decoder_type](config, settings)
