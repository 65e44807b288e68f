"""The transformer that every modality shares, and `Data2VecModel` around it.

Shapes: B samples, M masks per sample, T tokens, V visible tokens, E extra tokens, D hidden size, H heads. Where tokens
were dropped, B stands for B * M rows and T for V.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .arguments import known_arguments
from .configuration_data2vec import Data2VecConfig
from .local_encoders import LocalEncoder, LocalFeatures
from .modalities import MODALITIES, modality_of_input
from .modality_encoders import ModalityEncoder, Tokens
from .positions import AlibiBias, RelativePositionBias, SinCosPositions
from .pushing import PushToHub


# Called after each shared block with (number of the block, its output, its feed-forward part before the residual).
LayerCallback = Callable[[int, Tensor, Tensor], None]


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out: query, key, value (B, H, T, D / H) -> output (B, T, H, D / H), weights (B, H, T, T)."""
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class Data2VecAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface."""

    is_causal = False

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D / H)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        if position_bias is not None:
            kwargs["position_bias"] = position_bias
        dropout = self.config.attention_dropout if self.training else 0.0
        out, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.dropout(self.projection(out.reshape(batch, length, -1))), weights


class Data2VecMLP(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.activation_dropout)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))


class DropPath(nn.Module):
    """Stochastic depth: a branch is left out for a random part of the rows, the others are scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class Data2VecBlock(GradientCheckpointingLayer):
    """Post-norm transformer block; returns its output and its feed-forward part, the material of the targets."""

    def __init__(self, config: Data2VecConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        size, eps, scale = config.hidden_size, config.layer_norm_eps, config.layer_scale_init_value
        self.attention = Data2VecAttention(config)
        self.norm1 = nn.LayerNorm(size, eps=eps)
        self.mlp = Data2VecMLP(config)
        self.mlp_dropout = nn.Dropout(config.mlp_dropout)
        self.norm2 = nn.LayerNorm(size, eps=eps)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.layer_scale1 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None
        self.layer_scale2 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None

    def _branch(self, x: Tensor, layer_scale: Tensor | None) -> Tensor:
        return self.drop_path(x if layer_scale is None else x * layer_scale)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        attended, _ = self.attention(hidden_states, attention_mask, position_bias, **kwargs)
        x = self.norm1(hidden_states + self._branch(attended, self.layer_scale1))
        feed_forward = self.mlp(x)
        x = self.norm2(x + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2))
        return x, feed_forward


class Data2VecPreNormBlock(Data2VecBlock):
    """The same with the norms before attention and feed-forward part."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        attended, _ = self.attention(self.norm1(hidden_states), attention_mask, position_bias, **kwargs)
        x = hidden_states + self._branch(attended, self.layer_scale1)
        feed_forward = self.mlp(self.norm2(x))
        x = x + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2)
        return x, feed_forward


def make_blocks(config: Data2VecConfig, depth: int, drop_path_rate: float) -> nn.ModuleList:
    """`depth` blocks whose stochastic depth rises linearly from 0 to `drop_path_rate`."""
    block = Data2VecPreNormBlock if config.norm_first else Data2VecBlock
    return nn.ModuleList([block(config, drop_path_rate * i / max(depth - 1, 1)) for i in range(depth)])


def run_blocks(
    blocks: nn.ModuleList,
    hidden_states: Tensor,
    attention: list[tuple[Any, Tensor | None]],
    layerdrop: float = 0.0,
    on_layer: LayerCallback | None = None,
    **kwargs: Any,
) -> Tensor:
    """Runs a stack of blocks.

    A dropped layer is computed and its output not used: every process then runs the same graph, and every parameter
    has a gradient, which distributed engines need.
    """
    for i, (block, (mask, bias)) in enumerate(zip(blocks, attention, strict=True)):
        x, feed_forward = block(hidden_states, mask, bias, **kwargs)
        if layerdrop and block.training:
            x = torch.where(torch.rand((), device=x.device) < layerdrop, hidden_states, x)
        hidden_states = x
        if on_layer is not None:
            on_layer(i, hidden_states, feed_forward)
    return hidden_states


class Data2VecEncoder(nn.Module):
    """The blocks that all modalities share."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.layerdrop = config.layerdrop
        self.blocks = make_blocks(config, config.num_hidden_layers, config.drop_path_rate)
        has_norm = config.norm_first and config.final_norm
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if has_norm else nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        attention: list[tuple[Any, Tensor | None]],
        on_layer: LayerCallback | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, T, D) and one (mask, bias) pair a block -> (B, T, D)."""
        return self.norm(run_blocks(self.blocks, hidden_states, attention, self.layerdrop, on_layer, **kwargs))


@dataclass
class Data2VecModelOutput(ModelOutput):
    """Output of `Data2VecModel`.

    Args:
        last_hidden_state: (B, E + T, D), extra tokens first.
        pooler_output: (B, D), mean over the real tokens without the extra ones.
        hidden_states: input of the first shared block and output of each, where asked for.
        attentions: weights (B, H, E + T, E + T) of each shared block, where asked for (eager attention only).
        attention_mask: (B, E + T) bool, True = real.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None


class Data2VecPreTrainedModel(PushToHub, PreTrainedModel):
    """Base of every data2vec model: initialisation, and what transformers asks of a model class."""

    config: Data2VecConfig
    config_class = Data2VecConfig
    base_model_prefix = "data2vec"
    main_input_name = "input_values"
    input_modalities = ("text", "image", "audio")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Data2VecBlock", "Data2VecPreNormBlock", "ModalityEncoder"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(Data2VecBlock, index=0, layer_name="encoder.blocks"),
        "attentions": OutputRecorder(Data2VecAttention, index=1, layer_name="encoder.blocks"),
    }
    # An encoder read from a pretraining checkpoint leaves the teacher and the decoders behind.
    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^decoders\.", r"^ema_step$"]

    def _flash_attn_can_dispatch(self, *args: Any, **kwargs: Any) -> bool:
        biased = [
            name
            for name in self.config.modalities
            if self.config.modality_config(name).alibi is not None
            or getattr(self.config.modality_config(name), "relative_position_bias", False)
        ]
        if biased:
            raise ValueError(
                f"Flash attention takes no additive bias, and the {' and '.join(biased)} part of this model adds one "
                'to the attention scores (ALiBi or a relative position bias). Use `attn_implementation="sdpa"`.'
            )
        return super()._flash_attn_can_dispatch(*args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        """As in transformers. Front ends run inside this model: their configurations follow without a warning."""
        parts = [self.config.modality_config(name) for name in self.config.modalities]
        before = [part._attn_implementation for part in parts]
        if isinstance(attn_implementation, str):
            for part in parts:
                part._attn_implementation_internal = attn_implementation
        try:
            super().set_attn_implementation(attn_implementation, **kwargs)
        except (ImportError, ValueError):
            for part, value in zip(parts, before, strict=True):
                part._attn_implementation_internal = value
            raise

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As in transformers; a model without text, or a table that would lose a special token, is a `ValueError`."""
        text = self.config.modality_config("text")
        text.check_vocabulary(text.vocab_size if new_num_tokens is None else new_num_tokens)
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The reference's: N(0, 0.02) for linear layers and tables, PyTorch's own for convolutions and those named."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, LocalEncoder):
            module.init_weights()
        elif isinstance(module, ModalityEncoder):
            self._init_tokens(module)
        elif isinstance(module, Data2VecBlock):
            for scale in (module.layer_scale1, module.layer_scale2):
                if scale is not None:
                    init.constant_(scale, self.config.layer_scale_init_value)
        elif isinstance(module, SinCosPositions):
            init.copy_(module.table, module.initial_table())
        elif isinstance(module, AlibiBias):
            init.copy_(module.slopes, module.initial_slopes())
            if module.scale is not None:
                init.constant_(module.scale, module.initial_scale)
        elif isinstance(module, RelativePositionBias):
            init.trunc_normal_(module.table, std=std)

    @staticmethod
    def _init_tokens(module: ModalityEncoder) -> None:
        tokens = module.extra_tokens
        if tokens is not None:
            init.normal_(tokens)
            if module.config.init_extra_token_zero and not getattr(tokens, "_is_hf_initialized", False):
                tokens[:, 0].zero_()
        if module.mask_token is not None:
            init.uniform_(module.mask_token)


class Data2VecModel(Data2VecPreTrainedModel):
    """The data2vec encoder: one front end per modality, shared transformer blocks.

    Args:
        config: which modalities there are, and the size of everything.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.modality_encoders = nn.ModuleDict()
        for name in config.modalities:
            settings = config.modality_config(name)
            prenet = make_blocks(config, settings.prenet_depth, settings.prenet_drop_path_rate)
            self.modality_encoders[name] = ModalityEncoder(config, name, prenet)
        self.encoder = Data2VecEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer of the front end (of the text one, where there are several)."""
        return self.modality_encoders[self.config.modalities[0]].local_encoder.first_layer

    def set_input_embeddings(self, value: nn.Module) -> None:
        if "text" not in self.config.modalities:
            raise ValueError("Only text has an embedding table that can be replaced; this model has no text.")
        self.modality_encoders["text"].local_encoder.token_embeddings = value

    def select_input(self, **inputs: Tensor | None) -> tuple[str, Tensor]:
        """The one modality that was given, and its tensor.

        Raises:
            ValueError: if none or several are given, or one that this model has no front end for.
        """
        given = [name for name in (entry.input_name for entry in MODALITIES.values()) if inputs.get(name) is not None]
        names = " or ".join(f"`{MODALITIES[name].input_name}`" for name in self.config.modalities)
        if len(given) != 1:
            found = " and ".join(f"`{name}`" for name in given) or "none"
            raise ValueError(f"A forward pass takes one modality, {names}; {found} was given.")
        modality, tensor = modality_of_input(given[0]), inputs[given[0]]
        if modality not in self.config.modalities:
            raise ValueError(f"This model has no {modality} front end (`{given[0]}`); it takes {names}.")
        if tensor.shape[0] == 0:
            raise ValueError(f"`{given[0]}` is an empty batch: its first dimension is 0.")
        return modality, tensor

    def local_features(self, encoder: ModalityEncoder, inputs: Tensor, attention_mask: Tensor | None) -> LocalFeatures:
        """Runs a local encoder; checks what does not depend on the modality."""
        if attention_mask is not None and attention_mask.shape != inputs.shape:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}, the input {tuple(inputs.shape)}; they "
                "must be the same, with 1 for real and 0 for padding."
            )
        return encoder.local_encoder(inputs, attention_mask)

    def encode(
        self,
        encoder: ModalityEncoder,
        local: LocalFeatures,
        mask: Tensor | None = None,
        drop: bool = False,
        on_layer: LayerCallback | None = None,
        **kwargs: Any,
    ) -> tuple[Tokens, Tensor]:
        """Local features -> context encoder -> prenet -> shared blocks.

        Args:
            encoder: the modality's front end (a teacher may borrow the student's).
            local: its local features, (B, T, D).
            mask: (B, M, T) True = masked, or None.
            drop: leave masked tokens out instead of hiding them in place.
            on_layer: called after each shared block.

        Returns:
            the tokens as they entered the shared blocks, and the blocks' output (B * M, E + V, D).
        """
        tokens = encoder.contextualize(local, mask, drop)
        attention = self._attention(encoder, tokens)
        depth = len(encoder.prenet)
        tokens.hidden_states = run_blocks(
            encoder.prenet, tokens.hidden_states, attention[:depth], encoder.config.prenet_layerdrop, **kwargs
        )
        tokens = encoder.finish(tokens)
        dtype = self.encoder.blocks[0].norm1.weight.dtype
        if tokens.hidden_states.dtype != dtype and not torch.is_autocast_enabled(tokens.hidden_states.device.type):
            # A teacher in fp32 behind a front end that it borrows from a student in half precision.
            tokens.hidden_states = tokens.hidden_states.to(dtype)
            attention = self._attention(encoder, tokens)
        return tokens, self.encoder(tokens.hidden_states, attention[depth:], on_layer, **kwargs)

    def _attention(self, encoder: ModalityEncoder, tokens: Tokens) -> list[tuple[Any, Tensor | None]]:
        """(attention mask, position bias) of every prenet and shared block, in the form the implementation takes."""
        layers = len(encoder.prenet) + len(self.encoder.blocks)
        hidden, token_mask, bias_module = tokens.hidden_states, tokens.token_mask, encoder.attention_bias
        if tokens.bias is None:
            return [(create_bidirectional_mask(self.config, hidden, token_mask), None)] * layers
        flex = self.config._attn_implementation == "flex_attention"
        block_mask = create_bidirectional_mask(self.config, hidden, token_mask) if flex else None
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype

        def of_layer(layer: int) -> tuple[Any, Tensor | None]:
            bias = bias_module.scaled(tokens.bias, layer).to(dtype)
            if flex:
                return block_mask, bias.expand(hidden.shape[0], -1, -1, -1)
            if token_mask is not None:
                # Not -inf: a sample that is all padding then attends to everything instead of becoming NaN.
                bias = bias.masked_fill(~token_mask[:, None, None, :], torch.finfo(dtype).min)
            return bias, None

        # The rest of the layers share one mask, made once.
        return [of_layer(i) for i in range(layers)] if bias_module.per_layer else [of_layer(0)] * layers

    @capture_outputs(tie_last_hidden_states=False)
    @known_arguments
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Data2VecModelOutput:
        """Encodes a batch of one modality.

        Args:
            input_ids: (B, T) token ids.
            pixel_values: (B, C, height, width), sides multiples of the patch size.
            input_values: (B, samples) waveform at the configured rate, standardised per recording.
            attention_mask: of the input's shape, 1 = real, 0 = padding. Not for images.
            mask: (B, T) bool, True = token hidden in place, as in fine-tuning with time masking.

        Returns:
            `Data2VecModelOutput`.

        Raises:
            ValueError: for no input or several, a modality that the model lacks, a wrong shape or wrong ids.
        """
        modality, inputs = self.select_input(input_ids=input_ids, pixel_values=pixel_values, input_values=input_values)
        encoder = self.modality_encoders[modality]
        local = self.local_features(encoder, inputs, attention_mask)
        if mask is not None:
            mask = check_mask(mask, local.features, 2)[:, None]
        tokens, hidden = self.encode(encoder, local, mask, **kwargs)
        real = tokens.token_mask
        if real is None:
            real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return Data2VecModelOutput(
            last_hidden_state=hidden,
            pooler_output=masked_mean(hidden[:, encoder.num_extra :], real[:, encoder.num_extra :]),
            attention_mask=real,
        )


def masked_mean(x: Tensor, token_mask: Tensor) -> Tensor:
    """Mean of x (B, T, D) over the real tokens (B, T); zeros for a sample that has none."""
    weight = token_mask.float()
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)  # before the sum, which overflows in fp16
    return torch.einsum("btd,bt->bd", x, weight.to(x.dtype))


def check_mask(mask: Tensor, features: Tensor, dims: int) -> Tensor:
    """Checks a mask of tokens, (B, T) or (B, M, T), against the local features (B, T, D)."""
    batch, length = features.shape[:2]
    if mask.dtype != torch.bool or mask.dim() != dims or (mask.shape[0], mask.shape[-1]) != (batch, length):
        wanted = f"({batch}, {length})" if dims == 2 else f"({batch}, masks per sample, {length})"
        raise ValueError(
            f"`mask` must be bool of shape {wanted}, True = masked; got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask.to(features.device)
