"""Inputs of an encoder of transformers, by modality: the number of tokens, and where they are masked.

`BACKBONE_INPUTS` has an entry for every modality. Everything else is the same for all encoders.

Shapes: B samples, T tokens, D hidden size, h x w grid of patches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedConfig, PreTrainedModel


Replace = Callable[[Tensor], Tensor]


class BackboneInput:
    """The input of an encoder; `config` is a `BackbonePreTrainingConfig`."""

    copied: list[str] | None = None
    """Parts that the teacher copies from the student: in 1.0 text and audio average the transformer alone."""
    mask_point_is = ""
    """The module where features are masked, for messages."""

    def fits(self, config: PreTrainedConfig) -> bool:
        """Return whether an encoder with this configuration can be trained."""
        return True

    def check(self, config: Any) -> None:
        """Raise `BackboneError` for input sizes that are not supported."""

    def published(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Return settings that differ from the preset of data2vec 1.0, base size."""
        return {}

    def tokens_of(
        self, config: Any, inputs: Tensor, attention_mask: Tensor | None
    ) -> tuple[int, Tensor | None, tuple[int, int] | None]:
        """Return T, a mask (B, T) of the real tokens if there may be padding, and the grid of patches."""
        raise NotImplementedError

    def token_grid(self, config: Any, shape: Sequence[int]) -> tuple[int, int] | None:
        """Return rows and columns of the tokens of an input of `shape`; None for a 1-D sequence."""
        return None

    def num_tokens(self, config: Any, length: Any) -> Any:
        """Return the tokens of an input of `length` ids or samples."""
        return length

    def example(self, config: Any, tokens: int, device: torch.device | str) -> Tensor:
        """Return an input of one sample without content, of `tokens` tokens or of the encoder's image size."""
        raise NotImplementedError

    def mask_points(self, model: PreTrainedModel, layers: str) -> list[str]:
        """Return the names of modules at which features can be masked; there must be exactly one."""
        return []

    def on_features(self, module: nn.Module, replace: Replace) -> RemovableHandle:
        """Replace the features (B, T, D) at the mask point by `replace(features)` until the handle is removed."""
        raise NotImplementedError

    def without_masks(self, config: PreTrainedConfig) -> None:
        """Switch off masking that the encoder's class applies by itself in training."""


class TokenIds(BackboneInput):
    """Text: masked by its ids, before it enters the encoder."""

    copied = ["embeddings"]

    def published(self, config: PreTrainedConfig) -> dict[str, Any]:
        # BERT's masks, which the paper of 1.0 describes and most text encoders are trained with; spans: see presets.
        return dict(mask_sampler="random", mask_prob=0.15, mask_length=1, mask_random_prob=0.1, mask_keep_prob=0.1)

    def tokens_of(self, config: Any, inputs: Tensor, attention_mask: Tensor | None) -> tuple[int, Tensor | None, None]:
        if attention_mask is None and config.pad_token_id is not None:
            attention_mask = inputs.ne(config.pad_token_id)
        return inputs.shape[1], None if attention_mask is None else attention_mask.bool(), None

    def example(self, config: Any, tokens: int, device: torch.device | str) -> Tensor:
        return torch.full((1, tokens), config.mask_token_id, device=device)


class Images(BackboneInput):
    """Images: masked at the output of the convolution that makes patches."""

    mask_point_is = "the convolution that makes patches"

    def check(self, config: Any) -> None:
        config.grid_size(config.image_size, config.image_size)

    def published(self, config: PreTrainedConfig) -> dict[str, Any]:
        return {"loss_scale": 1 / config.hidden_size}  # a mean over channels, at any width

    def tokens_of(
        self, config: Any, inputs: Tensor, attention_mask: Tensor | None
    ) -> tuple[int, None, tuple[int, int]]:
        if attention_mask is not None:
            raise ValueError("Images are not padded: call the model without `attention_mask`.")
        grid = self.token_grid(config, inputs.shape)
        return grid[0] * grid[1], None, grid

    def token_grid(self, config: Any, shape: Sequence[int]) -> tuple[int, int]:
        return config.grid_size(*shape[-2:])

    def example(self, config: Any, tokens: int, device: torch.device | str) -> Tensor:
        return torch.zeros(1, config.num_channels, config.image_size, config.image_size, device=device)

    def mask_points(self, model: PreTrainedModel, layers: str) -> list[str]:
        return [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.in_channels <= 4
        ]

    def on_features(self, module: nn.Module, replace: Replace) -> RemovableHandle:
        def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return replace(output.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(output.shape)

        return module.register_forward_hook(after)


class Waveforms(BackboneInput):
    """Speech through convolutions: masked at the input of the part that adds positions and holds the layers."""

    copied = ["feature_extractor", "feature_projection", "pos_conv_embed"]
    mask_point_is = "the part after the projected features"

    def fits(self, config: PreTrainedConfig) -> bool:
        return bool(getattr(config, "conv_stride", None))

    def tokens_of(self, config: Any, inputs: Tensor, attention_mask: Tensor | None) -> tuple[int, Tensor | None, None]:
        length = config.num_frames(inputs.shape[1])
        if length < 1:
            raise ValueError(f"`input_values` has {inputs.shape[1]} samples; a frame needs {config.frame_width}.")
        if attention_mask is None:
            return length, None, None
        frames = config.num_frames(attention_mask.long().sum(dim=1))
        return length, torch.arange(length, device=inputs.device) < frames[:, None], None

    def num_tokens(self, config: Any, length: Any) -> Any:
        return config.num_frames(length)

    def example(self, config: Any, tokens: int, device: torch.device | str) -> Tensor:
        return torch.zeros(1, config.frame_width + (tokens - 1) * config.frame_stride, device=device)

    def mask_points(self, model: PreTrainedModel, layers: str) -> list[str]:
        return [layers.split(".", maxsplit=1)[0]] if "." in layers else []

    def on_features(self, module: nn.Module, replace: Replace) -> RemovableHandle:
        def before(module: nn.Module, inputs: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            if inputs:
                return (replace(inputs[0]), *inputs[1:]), named
            return inputs, {**named, "hidden_states": replace(named["hidden_states"])}

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def without_masks(self, config: PreTrainedConfig) -> None:
        # Set even if the configuration lacks it: encoders would mask features by default.
        config.apply_spec_augment = False


class Arrays(BackboneInput):
    """Arrays, which no encoder of transformers takes."""

    def fits(self, config: PreTrainedConfig) -> bool:
        return False


BACKBONE_INPUTS: dict[str, BackboneInput] = {
    "text": TokenIds(),
    "vision": Images(),
    "audio": Waveforms(),
    "arrays": Arrays(),
}
