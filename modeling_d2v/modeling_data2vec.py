"""`Data2VecModel`, the encoder, and the base class that it shares with pretraining and the task heads.

Shapes: B samples, M masks per sample, T tokens, V visible tokens, E extra tokens, D hidden size, H heads. Where tokens
were dropped, B stands for B * M rows and T for V.
"""

from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .arguments import known_arguments
from .blocks import (
    Data2VecAttention,
    Data2VecBlock,
    Data2VecEncoder,
    LayerCallback,
    make_blocks,
    of_modality,
    run_blocks,
)
from .configuration_data2vec import Data2VecConfig
from .local_encoders import LocalFeatures, SelfInitialised
from .modalities import MODALITIES, modality_of_input
from .modality_encoders import ModalityEncoder, Tokens
from .positions import AlibiBias, RelativePositionBias, SinCosPositions, SinusoidPositions
from .pushing import PushToHub
from .refused_calls import FixedPositions, NoGeneration


# Ends of the names of the modules that LoRA adapts. "projection" alone would also match the front ends.
LORA_TARGETS = ("attention.qkv", "attention.projection", "mlp.fc1", "mlp.fc2")
LORA_TARGETS_OF_A_MODALITY = ("mlp.{}.fc1", "mlp.{}.fc2")
# Children of a model that are not its task head.
ENCODER_PARTS = ("modality_encoders", "encoder", "teacher", "decoders")


@dataclass
class Data2VecModelOutput(ModelOutput):
    """Output of `Data2VecModel`.

    Args:
        last_hidden_state: (B, E + T, D), extra tokens first.
        pooler_output: (B, D), mean over the real tokens without the extra ones.
        hidden_states: Input of the first shared block and output of each, if requested.
        attentions: Weights (B, H, E + T, E + T) of each shared block, if requested (eager attention only).
        attention_mask: (B, E + T) int64, 1 = real, 0 = padding.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None


class Data2VecPreTrainedModel(NoGeneration, FixedPositions, PushToHub, PreTrainedModel):
    """Base of every data2vec model: initialisation, and hooks of transformers."""

    config: Data2VecConfig
    config_class = Data2VecConfig
    base_model_prefix = "data2vec"
    main_input_name = "input_ids"  # of the class; that of a model is the input of its first modality
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
    # An encoder loaded from a pretraining checkpoint has no teacher and no decoders.
    _keys_to_ignore_on_load_unexpected = [r"^teacher\.", r"^decoders\.", r"^target_statistics\.", r"^ema_step$"]

    def __init__(self, config: Data2VecConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.main_input_name = MODALITIES[config.modalities[0]].input_name

    def _flash_attn_can_dispatch(self, *args: Any, **kwargs: Any) -> bool:
        biased = [
            name
            for name in self.config.modalities
            if self.config.modality_config(name).alibi is not None
            or getattr(self.config.modality_config(name), "relative_position_bias", False)
        ]
        if biased:
            raise ValueError(
                f"Flash attention has no additive bias, and the {' and '.join(biased)} part of this model adds one "
                'to the attention scores (ALiBi or a relative position bias). Use `attn_implementation="sdpa"`.'
            )
        return super()._flash_attn_can_dispatch(*args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        """Set the implementation as in transformers, and that of the front ends without a warning."""
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
        """Resize the table as in transformers.

        Raises:
            ValueError: The model has no text, or the new table would lose a special token.
        """
        text = self.config.modality_config("text")
        if text.front_end == "perceiver":
            if new_num_tokens not in (None, text.vocab_size):
                raise ValueError("The perceiver front end reads bytes: its table, a row for each, cannot be resized.")
            return self.get_input_embeddings()
        text.check_vocabulary(text.vocab_size if new_num_tokens is None else new_num_tokens)
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def enable_input_require_grads(self) -> None:
        """Make the features of every front end require gradients, for adapters and gradient checkpointing.

        Of a pretraining model these are the student's: teacher targets never need gradients.
        """

        def require(module: nn.Module, inputs: Any, local: LocalFeatures) -> None:
            if not local.features.requires_grad:
                local.features.requires_grad_(True)

        encoders = getattr(self, self.base_model_prefix, self).modality_encoders
        self.disable_input_require_grads()
        self._require_grads_hooks = [
            encoder.local_encoder.register_forward_hook(require) for encoder in encoders.values()
        ]

    def lora_settings(self) -> dict[str, Any]:
        """Return the arguments of `peft.LoraConfig` for this model (LoRA, Hu et al. 2021).

        The four linear layers of every block, those of the prenet included, are adapted; query, key and value are one
        layer and share its rank. Front ends are frozen. The task head, which starts from random weights, is trained as
        a whole; an output matrix that is tied to the token embedding is frozen with it.

        Returns:
            `target_modules`, and `modules_to_save` with the modules of the head (`None` where there is no head).

        Example:
            >>> model = AutoModelForCTC.from_pretrained("runs/speech/final", vocab_size=32)
            >>> model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, **model.lora_settings()))
            >>> model.print_trainable_parameters()
        """
        tied = set(self.all_tied_weights_keys)
        head = [
            name
            for child, module in self.named_children()
            if child not in (self.base_model_prefix, *ENCODER_PARTS)
            for name in _trainable(child, module, tied)
        ]
        targets = list(LORA_TARGETS)
        if self.config.feed_forward == "per_modality":
            names = self.config.modalities
            targets += [target.format(name) for name in names for target in LORA_TARGETS_OF_A_MODALITY]
        return {"target_modules": targets, "modules_to_save": head or None}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the reference: N(0, 0.02) for linear layers and tables, PyTorch's defaults otherwise."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            if module.weight is not None:
                init.ones_(module.weight)
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, SelfInitialised):
            module.init_weights()
        elif isinstance(module, ModalityEncoder):
            self._init_tokens(module)
        elif isinstance(module, Data2VecBlock):
            for scale in (module.layer_scale1, module.layer_scale2):
                if scale is not None:
                    init.constant_(scale, self.config.layer_scale_init_value)
        elif isinstance(module, SinCosPositions | SinusoidPositions):
            init.copy_(module.table, module.initial_table())
        elif isinstance(module, AlibiBias):
            init.copy_(module.slopes, module.initial_slopes())
            if module.scale is not None:
                init.constant_(module.scale, module.initial_scale)
        elif isinstance(module, RelativePositionBias):
            init.trunc_normal_(module.table, std=std)

    def _init_tokens(self, module: ModalityEncoder) -> None:
        if module.modality_embedding is not None:
            init.normal_(module.modality_embedding, std=self.config.initializer_range)
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
        config: Modalities and sizes.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__(config)
        self.modality_encoders = nn.ModuleDict()
        for name in config.modalities:
            settings = config.modality_config(name)
            prenet = make_blocks(config, settings.prenet_depth, settings.prenet_drop_path_rate)
            self.modality_encoders[name] = ModalityEncoder(config, name, prenet)
            if settings.local_grad_scale == 0:
                # Gradients of zero would leave weight decay at work.
                self.modality_encoders[name].local_encoder.extractor.requires_grad_(False)
        self.encoder = Data2VecEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        """Return the table of tokens, the patch embedding of a model without text, or None for speech alone."""
        if self.config.modalities == ["audio"]:
            return None
        return self.modality_encoders[self.config.modalities[0]].local_encoder.first_layer

    def set_input_embeddings(self, value: nn.Module) -> None:
        if "text" not in self.config.modalities:
            raise ValueError("Only the embedding table of text can be replaced; this model has no text front end.")
        if self.config.text_config.front_end == "perceiver":
            raise ValueError("The perceiver front end reads bytes: its table, a row for each, cannot be replaced.")
        self.modality_encoders["text"].local_encoder.token_embeddings = value

    def select_input(self, **inputs: Tensor | None) -> tuple[str, Tensor]:
        """Return the modality that was given, and its tensor.

        Raises:
            ValueError: None or several are given, or one that this model has no front end for.
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
        """Run a local encoder and check what does not depend on the modality."""
        if attention_mask is not None:
            encoder.local_encoder.check_attention_mask(inputs, attention_mask)
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
        """Run context encoder, prenet and shared blocks on local features.

        Args:
            encoder: The modality's front end (a teacher may use the student's).
            local: Its local features, (B, T, D).
            mask: (B, M, T) True = masked, or None.
            drop: Drop masked tokens instead of replacing them.
            on_layer: Called after each shared block.

        Returns:
            The tokens as they entered the shared blocks, and the blocks' output (B * M, E + V, D).
        """
        tokens = encoder.contextualize(local, mask, drop)
        attention = self._attention(encoder, tokens)
        depth = len(encoder.prenet)
        tokens.hidden_states = run_blocks(
            encoder.prenet, tokens.hidden_states, attention[:depth], encoder.config.prenet_layerdrop, **kwargs
        )
        tokens = encoder.finish(tokens)
        first = self.encoder.blocks[0]
        # Not the dtype of a linear layer's weight, which is that of the storage where it is quantised.
        floating = (weight for weight in first.parameters() if weight.is_floating_point())
        norm = of_modality(first.norm1, encoder.modality)
        dtype = (norm.weight if self.config.norm_affine else next(floating, tokens.hidden_states)).dtype
        if tokens.hidden_states.dtype != dtype and not torch.is_autocast_enabled(tokens.hidden_states.device.type):
            # A teacher in fp32 may use the front end of a student in half precision.
            tokens.hidden_states = tokens.hidden_states.to(dtype)
            attention = self._attention(encoder, tokens)
        hidden = self.encoder(tokens.hidden_states, attention[depth:], on_layer, encoder.modality, **kwargs)
        # Where tokens are dropped, decoders read what is left, and of a teacher nothing else is read than its layers.
        return (tokens, hidden) if drop or on_layer is not None else encoder.expand(tokens, hidden, local)

    def _attention(self, encoder: ModalityEncoder, tokens: Tokens) -> list[tuple[Any, Tensor | None]]:
        """Return (attention mask, position bias) of every prenet and shared block, for the implementation."""
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

        # All layers share one mask.
        return [of_layer(i) for i in range(layers)] if bias_module.per_layer else [of_layer(0)] * layers

    @capture_outputs(tie_last_hidden_states=False)
    def encode_recorded(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Run `encode` with the same arguments; `return_dict=True` is required.

        Returns:
            `encoded`, the result of `encode`, and `hidden_states` and `attentions` of the shared blocks where they are
            asked for by argument or configuration.
        """
        return {"encoded": self.encode(*args, **kwargs)}

    @known_arguments
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        array_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Data2VecModelOutput:
        """Encode a batch of one modality.

        Args:
            input_ids: (B, T) token ids.
            pixel_values: (B, C, height, width), sides multiples of the patch size.
            input_values: (B, samples) waveform at the configured rate, for convolutions standardised per recording.
            array_values: (B, sides ..., C) floats, channels last.
            attention_mask: Mask of the input's shape, of images and of arrays of several dimensions (B, T) of
                tokens, of arrays of one dimension (B, length); 1 = real, 0 = padding.
            mask: (B, T) bool, True = token replaced, as in fine-tuning with time masking.

        Returns:
            `Data2VecModelOutput`.

        Raises:
            ValueError: No or several inputs are given, the model lacks the modality, or shapes or ids are wrong.
        """
        modality, inputs = self.select_input(
            input_ids=input_ids, pixel_values=pixel_values, input_values=input_values, array_values=array_values
        )
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
            attention_mask=real.long(),
        )


def masked_mean(x: Tensor, token_mask: Tensor) -> Tensor:
    """Return the mean of x (B, T, D) over the real tokens (B, T); zeros for a sample that has none."""
    weight = token_mask.float()
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)  # before the sum, which overflows in fp16
    return torch.einsum("btd,bt->bd", x, weight.to(x.dtype))


def check_mask(mask: Tensor, features: Tensor, dims: int) -> Tensor:
    """Check a mask of tokens, (B, T) or (B, M, T), against the local features (B, T, D)."""
    batch, length = features.shape[:2]
    if mask.dtype != torch.bool or mask.dim() != dims or (mask.shape[0], mask.shape[-1]) != (batch, length):
        wanted = f"({batch}, {length})" if dims == 2 else f"({batch}, masks per sample, {length})"
        raise ValueError(
            f"`mask` must be bool of shape {wanted}, True = masked; got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    return mask.to(features.device)


def _trainable(name: str, module: nn.Module, tied: set[str]) -> list[str]:
    """Return the module, or those inside it, that peft can train as a whole: no containers, and no tied weights."""
    parameters = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    if not parameters:
        return []
    if not isinstance(module, nn.ModuleList | nn.ModuleDict) and tied.isdisjoint(parameters):
        return [name]
    return [inner for child, part in module.named_children() for inner in _trainable(f"{name}.{child}", part, tied)]
