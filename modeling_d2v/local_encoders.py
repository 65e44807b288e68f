"""The first part of every front end: from raw input to features, token by token or by overlapping windows.

Shapes: B samples, T tokens, D hidden size, h x w grid of patches. Token masks are True = real.
"""

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_data2vec import Data2VecConfig
from .configuration_modalities import Data2VecModalityConfig
from .dropout import Dropout
from .positions import FIXED_EPS, ConvPositions, SinCosPositions, SinusoidPositions, text_positions
from .targets import instance_norm
from .time_convolutions import TimeConv1d


@dataclass
class LocalFeatures:
    """What a local encoder gives: nothing in it depends on the mask, so it is computed once for all M masks."""

    features: Tensor  # (B, T, D)
    token_mask: Tensor | None  # (B, T), None = all real
    grid: tuple[int, int] | None = None
    clean: Tensor | None = None  # features before dropout, which the teacher reads; None = without dropout
    coordinates: Tensor | None = None  # (T, n) places of the tokens, where the positions are made from these
    places: Tensor | None = None  # (1, T, G, n) places of the elements of groups, where latents read these later
    inside: Tensor | None = None  # (1 or B, T, G) False at places without an element


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return `x`, whose gradient is multiplied by `scale` on the way back."""
    return _ScaledGradient.apply(x, scale) if scale != 1 and x.requires_grad else x


def check_token_ids(input_ids: Tensor, table: nn.Module) -> None:
    """Checks that an embedding table has a row for every id.

    Ids on a GPU are not read: that would make the host wait for it in every step. There PyTorch itself stops, with a
    device-side assertion.

    Raises:
        ValueError: naming the first wrong id and the size of the vocabulary.
    """
    if input_ids.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    rows = table.weight.shape[0]
    wrong = input_ids[(input_ids < 0) | (input_ids >= rows)]
    if wrong.numel():
        raise ValueError(
            f"`input_ids` holds {wrong[0].item()}; the vocabulary of this model goes from 0 to {rows - 1}. Check that "
            "the tokenizer is the one that the model was trained with. Where it has got new tokens, give them rows: "
            "`model.resize_token_embeddings(len(tokenizer))`."
        )


class SelfInitialised(nn.Module):
    """A part of a front end with start values that the rules for linear layers, tables and norms do not give."""

    def init_weights(self) -> None:
        """Set what this module adds to the modules inside it."""


class LocalEncoder(SelfInitialised):
    """Turns the input of a modality into features (B, T, D): what distinguishes one front end from another.

    Subclasses are made from the configuration of the model and that of the modality.
    """

    def forward(self, inputs: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        """Encode `inputs` (B, ...); `attention_mask`, as `check_attention_mask` wants it, is 1 = real, 0 = padding."""
        raise NotImplementedError

    def check_attention_mask(self, inputs: Tensor, attention_mask: Tensor) -> None:
        """Raise `ValueError` for a mask that is not of the shape of the inputs."""
        if attention_mask.shape != inputs.shape:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}, the input {tuple(inputs.shape)}; they "
                "must be the same, with 1 for real and 0 for padding."
            )

    def make_positions(self, config: Data2VecConfig) -> nn.Module | None:
        """Make the module that tells where a token is; None where the features or the attention bias do."""
        return None

    def make_reader(self, config: Data2VecConfig) -> nn.Module | None:
        """Make the module that turns features into tokens after masking; None where the features are the tokens."""
        return None

    @property
    def first_layer(self) -> nn.Module:
        """The layer that reads the input."""
        raise NotImplementedError

    @property
    def extractor(self) -> nn.Module:
        """The part that stays as pretrained where fine-tuning freezes the feature encoder."""
        return self


def check_texts(text: Data2VecModalityConfig, input_ids: Tensor) -> None:
    """Check token ids (B, T).

    Raises:
        ValueError: for another shape or type, no tokens, or too many.
    """
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ValueError(
            f"`input_ids` must be integers of shape (batch, tokens); got {input_ids.dtype} of shape "
            f"{tuple(input_ids.shape)}."
        )
    if not 0 < input_ids.shape[1] <= text.max_position_embeddings:
        raise ValueError(
            f"`input_ids` has {input_ids.shape[1]} tokens; this model takes 1 to {text.max_position_embeddings} "
            "(`text_config.max_position_embeddings`). Skip empty texts; truncate or split long ones."
        )


def check_images(vision: Data2VecModalityConfig, pixel_values: Tensor) -> None:
    """Raise `ValueError` for images of another shape than (B, channels, height, width)."""
    if pixel_values.dim() != 4 or pixel_values.shape[1] != vision.num_channels:
        raise ValueError(
            f"`pixel_values` must have shape (batch, {vision.num_channels}, height, width); got "
            f"{tuple(pixel_values.shape)}."
        )


class TextLocalEncoder(LocalEncoder):
    """Token + position embedding, layer norm, dropout."""

    def __init__(self, config: Data2VecConfig, text: Data2VecModalityConfig) -> None:
        super().__init__()
        pad, size = text.pad_token_id, config.hidden_size
        self.text, self.pad_token_id = text, pad
        self.grad_scale = text.local_grad_scale
        self.embedding_scale = math.sqrt(size) if text.scale_embedding else 1.0
        self.token_embeddings = nn.Embedding(text.vocab_size, size, padding_idx=pad)
        self.position_embeddings: nn.Module | None = None
        if text.position_embedding == "learned":
            self.position_embeddings = nn.Embedding(text.max_position_embeddings + pad + 1, size, padding_idx=pad)
        elif text.position_embedding == "sinusoidal":
            self.position_embeddings = SinusoidPositions(text.max_position_embeddings + pad + 1, size, pad)
        self.layer_norm = nn.LayerNorm(size, eps=text.local_norm_eps) if text.embedding_norm else nn.Identity()
        self.dropout = Dropout(text.embedding_dropout)

    @property
    def first_layer(self) -> nn.Module:
        return self.token_embeddings

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        check_texts(self.text, input_ids)
        check_token_ids(input_ids, self.token_embeddings)
        token_mask = input_ids.ne(self.pad_token_id) if attention_mask is None else attention_mask.bool()
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()) and token_mask.all():
            token_mask = None
        features = self.token_embeddings(input_ids)
        if self.embedding_scale != 1.0:
            features = features * self.embedding_scale
        if self.position_embeddings is not None:
            positions = self.position_embeddings(text_positions(input_ids, self.pad_token_id, token_mask))
            features = features + positions.to(features.dtype)
        features = self.dropout(self.layer_norm(features))
        return LocalFeatures(scale_gradient(features, self.grad_scale), token_mask)


def init_patches(projection: nn.Conv2d) -> None:
    """Initialise a patch embedding like a linear layer of the flattened patch: Xavier, uniform."""
    weight = projection.weight
    bound = (6 / (weight[0].numel() + weight.shape[0])) ** 0.5
    init.uniform_(weight, -bound, bound)
    init.zeros_(projection.bias)


class VisionLocalEncoder(LocalEncoder):
    """Patch embedding: a convolution whose stride is its kernel."""

    def __init__(self, config: Data2VecConfig, vision: Data2VecModalityConfig) -> None:
        super().__init__()
        dim = vision.embed_dim or config.hidden_size
        self.vision = vision
        self.projection = nn.Conv2d(vision.num_channels, dim, vision.patch_size, stride=vision.patch_size)
        self.expand = nn.Linear(dim, config.hidden_size) if dim != config.hidden_size else nn.Identity()

    def make_positions(self, config: Data2VecConfig) -> nn.Module | None:
        if self.vision.position_embedding != "sincos_2d":
            return None
        return SinCosPositions(config.hidden_size, self.vision.base_grid)

    @property
    def first_layer(self) -> nn.Module:
        return self.projection

    def init_weights(self) -> None:
        init_patches(self.projection)

    def forward(self, pixel_values: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        check_images(self.vision, pixel_values)
        grid = self.vision.grid_size(*pixel_values.shape[2:])
        patches = self.projection(pixel_values.to(self.projection.weight.dtype)).flatten(2).transpose(1, 2)
        real = None if attention_mask is None else attention_mask[:, -patches.shape[1] :].bool()
        return LocalFeatures(scale_gradient(self.expand(patches), self.vision.local_grad_scale), real, grid)

    def check_attention_mask(self, pixel_values: Tensor, attention_mask: Tensor) -> None:
        """Raise `ValueError` for a mask that is not of the patches, with or without the extra tokens before them."""
        rows, columns = self.vision.grid_size(*pixel_values.shape[2:])
        patches, extra = rows * columns, self.vision.num_extra_tokens
        if attention_mask.shape not in ((len(pixel_values), patches), (len(pixel_values), extra + patches)):
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}; for images it is of patches, "
                f"({len(pixel_values)}, {patches}), with 1 for real and 0 for padding."
            )


class TimeNorm(SelfInitialised):
    """Norm of each channel over the real time steps of a sample, with weights: a group norm of one channel a group."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def init_weights(self) -> None:
        init.ones_(self.weight)
        init.zeros_(self.bias)

    def forward(self, x: Tensor, token_mask: Tensor | None) -> Tensor:
        """Normalise x (B, T, D); token_mask (B, T) is True = real. Statistics are computed in fp32."""
        return (instance_norm(x.float(), token_mask) * self.weight.float() + self.bias.float()).to(x.dtype)


class AudioConvLayer(nn.Module):
    """Convolution, norm (`"layer"` over channels, `"group"` over time, or None), GELU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        bias: bool,
        dropout: float,
        norm: str | None = "layer",
    ) -> None:
        super().__init__()
        self.conv = TimeConv1d(inputs, outputs, kernel, stride=stride, bias=bias)
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(outputs, eps=FIXED_EPS) if norm == "layer" else nn.Identity()
        self.group_norm = TimeNorm(outputs) if norm == "group" else None

    def forward(self, x: Tensor, token_mask: Tensor | None = None) -> Tensor:
        x = self.dropout(self.conv(x))
        return F.gelu(self.layer_norm(x) if self.group_norm is None else self.group_norm(x, token_mask))


def check_waveforms(audio: Data2VecModalityConfig, input_values: Tensor) -> None:
    """Check that waveforms (B, samples) are long enough for one frame.

    Raises:
        ValueError: for another shape or type, or too few samples.
    """
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


def whole_windows(sample_mask: Tensor, width: int, stride: int) -> Tensor:
    """Sample mask (B, samples) -> frame mask (B, T): a frame is real if its first and last samples are."""
    first = sample_mask[:, : sample_mask.shape[1] - width + 1 : stride]
    return first & sample_mask[:, width - 1 :: stride]


class AudioLocalEncoder(LocalEncoder):
    """Strided convolutions over the raw waveform, layer norm, linear to D.

    A group norm does not see padding: a recording has the same features alone and in a padded batch, except under
    `fairseq_compatible_padding`.
    """

    def __init__(self, config: Data2VecConfig, audio: Data2VecModalityConfig) -> None:
        super().__init__()
        self.audio = audio
        channels = [1, *audio.conv_dim]
        shapes = zip(channels[:-1], channels[1:], audio.conv_kernel, audio.conv_stride, strict=True)
        norms = ["layer"] * len(audio.conv_dim) if audio.conv_norm == "layer" else ["group"]
        self.conv_layers = nn.ModuleList(
            [
                AudioConvLayer(*shape, audio.conv_bias, audio.conv_dropout, norm)
                for shape, norm in zip_longest(shapes, norms)
            ]
        )
        self.masks_norm = audio.conv_norm == "group" and not config.fairseq_compatible_padding
        self.layer_norm = nn.LayerNorm(channels[-1], eps=audio.local_norm_eps)
        self.projection = nn.Linear(channels[-1], config.hidden_size)
        self.dropout = Dropout(audio.feat_proj_dropout)

    def make_positions(self, config: Data2VecConfig) -> nn.Module | None:
        audio = self.audio
        if not audio.conv_pos_depth:
            return None
        return ConvPositions(
            config.hidden_size,
            audio.conv_pos_depth,
            audio.conv_pos_width,
            audio.conv_pos_groups,
            zero_padding=not config.fairseq_compatible_padding,
            pre_norm=audio.conv_pos_pre_norm,
        )

    @property
    def first_layer(self) -> nn.Module:
        return self.conv_layers[0].conv

    @property
    def extractor(self) -> nn.Module:
        return self.conv_layers

    def init_weights(self) -> None:
        for layer in self.conv_layers:
            init.kaiming_normal_(layer.conv.weight)
        self.projection.reset_parameters()

    def forward(self, input_values: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        check_waveforms(self.audio, input_values)
        # Not the dtype of a linear layer, which is that of the storage where it is quantised.
        x = input_values[..., None].to(self.conv_layers[0].conv.weight.dtype)
        real = None if attention_mask is None else attention_mask.bool()
        first = None
        if real is not None and self.masks_norm:
            first = whole_windows(real, self.audio.conv_kernel[0], self.audio.conv_stride[0])
        for layer in self.conv_layers:
            x, first = layer(x, first), None
        x = scale_gradient(x, self.audio.local_grad_scale)
        features = self.projection(self.layer_norm(x))
        if real is not None:
            real = whole_windows(real, self.audio.frame_width, self.audio.frame_stride)
        return LocalFeatures(self.dropout(features), real, clean=features)
