"""The parts of the front end that knows no modality: elements with coordinates, and the latents that read them.

Shapes: B samples, N elements, T tokens, G elements of a group, L latents, d their width, D hidden size, C channels,
n dimensions of an array. Masks of elements and tokens are True = real.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .local_encoders import (
    LocalEncoder,
    SelfInitialised,
    check_images,
    check_texts,
    check_token_ids,
    check_waveforms,
)


# Up to this extent frequencies are spaced linearly, so that every whole number of cycles is there; above it
# geometrically, as few bands then have to span many octaves.
LINEAR_EXTENT = 64


def fourier_frequencies(bands: int, extent: float, highest: float) -> Tensor:
    """Return frequencies (bands,) in cycles per element, from one cycle in `extent` elements to `highest`."""
    lowest = 1 / extent
    with torch.device("cpu"):
        if bands == 1:
            return torch.tensor([highest], dtype=torch.float32)
        if extent <= LINEAR_EXTENT:
            return torch.linspace(lowest, highest, bands, dtype=torch.float32)
        return torch.logspace(math.log10(lowest), math.log10(highest), bands, dtype=torch.float64).float()


class FourierFeatures(SelfInitialised):
    """Coordinates in units of an extent, and sines and cosines of them at several frequencies.

    They are absolute: neither the length of the input nor padding changes them.

    Args:
        dims: n.
        bands, extent, highest: See `fourier_frequencies`.
    """

    def __init__(self, dims: int, bands: int, extent: float, highest: float) -> None:
        super().__init__()
        self.bands, self.extent, self.highest = bands, extent, highest
        self.width = dims * (2 * bands + 1)
        self.register_buffer("frequencies", self.initial_frequencies(), persistent=False)

    def initial_frequencies(self) -> Tensor:
        return fourier_frequencies(self.bands, self.extent, self.highest)

    def init_weights(self) -> None:
        init.copy_(self.frequencies, self.initial_frequencies())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)
        if self.frequencies.device.type != "meta":
            # Frequencies in half precision would be off by whole cycles far from the origin.
            self.frequencies = self.initial_frequencies().to(self.frequencies.device)
        return self

    def forward(self, coordinates: Tensor) -> Tensor:
        """Map coordinates (..., n) in elements to features (..., n (2 bands + 1)), in fp32."""
        coordinates = coordinates.float()
        angles = 2 * math.pi * coordinates[..., None] * self.frequencies.float()
        parts = [coordinates / self.extent, angles.sin().flatten(-2), angles.cos().flatten(-2)]
        return torch.cat(parts, dim=-1)


class ByteValues(nn.Module):
    """Table of the values of bytes and special tokens."""

    def __init__(self, text: Data2VecModalityConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(text.vocab_size, text.latent_size)

    def init_weights(self) -> None:
        """Set start values."""
        # As large as the Fourier features beside them.
        init.normal_(self.embeddings.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (..., 1) to (..., d)."""
        return self.embeddings(ids[..., 0])


class NumberValues(nn.Module):
    """Linear layer of the channels of an element."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, size)

    def init_weights(self) -> None:
        """Set start values."""
        init.normal_(self.linear.weight, std=self.linear.in_features**-0.5)
        init.zeros_(self.linear.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Map values (..., C) to (..., d)."""
        return self.linear(values)


def init_xavier(layer: nn.Linear) -> None:
    """Initialise a linear layer like Glorot and Bengio (2010), uniform, without bias at the start."""
    bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
    init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        init.zeros_(layer.bias)


class LatentRead(nn.Module):
    """Cross-attention of latents to elements, norms before it, and a feed-forward part after it.

    Start values are Xavier's: those of the blocks, N(0, 0.02), would let constants outweigh the input.

    Args:
        size: d.
        heads: Heads of the attention.
    """

    def __init__(self, size: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.latent_norm, self.element_norm = nn.LayerNorm(size, eps=eps), nn.LayerNorm(size, eps=eps)
        self.query, self.key = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.value, self.projection = nn.Linear(size, size), nn.Linear(size, size)
        self.mlp_norm = nn.LayerNorm(size, eps=eps)
        self.fc1, self.fc2 = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def init_weights(self) -> None:
        """Set start values."""
        for layer in (self.query, self.key, self.value, self.projection, self.fc1, self.fc2):
            init_xavier(layer)

    def forward(self, latents: Tensor, elements: Tensor, real: Tensor | None) -> Tensor:
        """Return what latents (R or 1, L, d) read from elements (R, G, d): (R, L, d).

        `real` (R or 1, G) is False at elements that are not read, None = all are. Rows without any read them all.
        """
        rows, count, size = elements.shape
        heads = (self.heads, size // self.heads)
        elements = self.element_norm(elements)
        query = self.query(self.latent_norm(latents)).unflatten(-1, heads).transpose(1, 2)
        query = query.expand(rows, -1, -1, -1)
        key, value = (layer(elements).unflatten(-1, heads).transpose(1, 2) for layer in (self.key, self.value))
        bias = None
        if real is not None:
            bias = torch.zeros_like(real, dtype=query.dtype).masked_fill(~real, torch.finfo(query.dtype).min)
            bias = bias[:, None, None].expand(rows, 1, query.shape[2], count)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = self.projection(read.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.mlp_norm(x))))


def check_arrays(arrays: Data2VecModalityConfig, array_values: Tensor) -> None:
    """Check arrays (B, sides ..., C).

    Raises:
        ValueError: for another shape or type, or an array without entries.
    """
    shape = tuple(array_values.shape)
    if len(shape) != arrays.num_dims + 2 or shape[-1] != arrays.num_channels or not array_values.is_floating_point():
        sides = ", ".join(["length", "height, width", "depth, height, width"][arrays.num_dims - 1].split(", "))
        raise ValueError(
            f"`array_values` must be floats of shape (batch, {sides}, {arrays.num_channels}), channels last; got "
            f"{array_values.dtype} of shape {shape}. The shape is set by `num_dims` and `num_channels`."
        )
    if 0 in shape[1:]:
        raise ValueError(f"`array_values` has shape {shape}: the arrays have no entries.")


class PerceiverLocalEncoder(LocalEncoder):
    """Base of the groupings: the elements of an input, of whatever modality.

    Args:
        config: Configuration of the model.
        settings: Of the modality; its `modality` tells how its input is laid out.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__()
        self.settings = settings
        self.grad_scale = settings.local_grad_scale
        size = settings.latent_size
        if settings.modality == "text":
            self.values: nn.Module = ByteValues(settings)
        else:
            self.values = NumberValues(settings.element_channels, size)
        self.coordinates = FourierFeatures(
            settings.num_dims, settings.fourier_bands, settings.extent, settings.max_frequency
        )

    @property
    def first_layer(self) -> nn.Module:
        return self.values.embeddings if isinstance(self.values, ByteValues) else self.values.linear

    @property
    def token_embeddings(self) -> nn.Module:
        """The table of bytes, under the name that it has in the other front end of text."""
        return self.values.embeddings

    def elements(self, inputs: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the elements (B, side, ..., C) of an input, and which of a 1-D input are real (B, side), None = all.

        Padding before the first real element of a 1-D input is moved to its end.

        Raises:
            ValueError: The input has another shape or type.
        """
        settings = self.settings
        if settings.modality == "text":
            check_texts(settings, inputs)
            check_token_ids(inputs, self.first_layer)
            elements = inputs[..., None]
            if attention_mask is None:
                attention_mask = inputs.ne(settings.pad_token_id)
        elif settings.modality == "vision":
            check_images(settings, inputs)
            elements = inputs.permute(0, 2, 3, 1)
        elif settings.modality == "audio":
            check_waveforms(settings, inputs)
            elements = inputs[..., None]
        else:
            check_arrays(settings, inputs)
            elements = inputs
        if settings.modality != "text":
            # Not the dtype of a linear layer, which is that of the storage where it is quantised.
            floating = (weight.dtype for weight in self.parameters() if weight.is_floating_point())
            elements = elements.to(next(floating, torch.float32))
        if attention_mask is None or settings.num_dims != 1:
            return elements, None
        real, places = attention_mask.bool(), torch.arange(inputs.shape[1], device=inputs.device)
        last = inputs.shape[1] - 1
        places = places + real.long().argmax(dim=1)[:, None]  # (B, N)
        inside, places = places <= last, places.clamp(max=last)
        # Not `take_along_dim`, which fixes the shapes of an exported program.
        rows = torch.arange(inputs.shape[0], device=inputs.device)[:, None]
        return elements[rows, places], real[rows, places] & inside

    def check_attention_mask(self, inputs: Tensor, attention_mask: Tensor) -> None:
        """Raise `ValueError` for a mask that is not of the 1-D input, or of the tokens of an input of more sides."""
        settings = self.settings
        if settings.num_dims == 1:
            wanted = tuple(inputs.shape[:2])
        else:
            wanted = (inputs.shape[0], settings.token_count(inputs.shape[1:]))
        if tuple(attention_mask.shape) != wanted:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}; for an input of shape "
                f"{tuple(inputs.shape)} it must be {wanted}, with 1 for real and 0 for padding."
            )


def coordinate_positions(coordinates: Tensor, dim: int) -> Tensor:
    """Return sin-cos positions (T, D) of coordinates (T, n): D / n channels for each of them, and zeros for the rest.

    The frequencies are those of Vaswani et al. 2017, as in `sincos_2d`.
    """
    count = dim // (2 * coordinates.shape[1])
    frequencies = 10000.0 ** -(torch.arange(count, device=coordinates.device) / count)
    angles = coordinates.float()[..., None] * frequencies
    table = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
    return F.pad(table, (0, dim - table.shape[1]))


class CoordinatePositions(nn.Module):
    """Fixed positions of tokens by the coordinates that their front end gives."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, coordinates: Tensor) -> Tensor:
        """Map coordinates (T, n), in units of the distance of neighbouring tokens, to positions (T, D)."""
        return coordinate_positions(coordinates, self.dim)


class ElementStates(nn.Module):
    """Hidden states at the elements of a text, for heads that classify each byte: position queries read the tokens.

    The query of an element is the token of its group and the place of the element in it.

    Args:
        config: Configuration of the model.
        settings: Of the modality, which has one dimension.
    """

    def __init__(self, config: Data2VecConfig, settings: Data2VecModalityConfig) -> None:
        super().__init__()
        self.group_size = size = settings.group_size
        self.offsets = FourierFeatures(1, max(math.ceil(size / 2), 1), max(size, 2), 0.5)
        self.placement = nn.Linear(self.offsets.width, config.hidden_size)
        self.read = LatentRead(config.hidden_size, config.num_attention_heads, settings.local_norm_eps)

    def forward(self, hidden: Tensor, real: Tensor, element_mask: Tensor) -> Tensor:
        """Return hidden states (B, N, D) at the elements of an input.

        Args:
            hidden: (B, T, D) tokens without extra ones.
            real: (B, T) True = real.
            element_mask: (B, N) True = real; elements of padding have the state of a real one.
        """
        places = torch.arange(element_mask.shape[1], device=hidden.device)
        places = (places - element_mask.long().argmax(dim=1)[:, None]).clamp(min=0)  # (B, N)
        groups = (places // self.group_size).clamp(max=hidden.shape[1] - 1)
        offsets = (places - groups * self.group_size).float() - (self.group_size - 1) / 2
        placed = self.placement(self.offsets(offsets[..., None]).to(hidden.dtype))
        queries = hidden[torch.arange(hidden.shape[0], device=hidden.device)[:, None], groups] + placed
        return queries + self.read(queries, hidden, real)
