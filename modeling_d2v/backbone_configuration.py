"""Configuration of the objective of data2vec 1.0 over an encoder of transformers.

The layers and inputs of the encoder are found once, when the configuration is made from a model, and stored: a
checkpoint does not depend on a later search with the same result.
"""

import copy
import inspect
import sys
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from .backbone_inputs import BACKBONE_INPUTS
from .backbone_parts import (
    BackboneError,
    check_encoder,
    find_feed_forward,
    find_layers,
    find_mask_point,
    find_mask_vector,
)
from .configuration_audio import Frames
from .configuration_checks import in_range, one_of
from .configuration_modalities import MaskedPredictionConfig
from .modalities import MODALITIES, FrontEnd, modality_of_input
from .presets import get_preset


# Arguments of a model's class, beside its configuration, that decide which parts it has.
_STRUCTURE = {"add_pooling_layer": "pooler", "use_mask_token": "embeddings.mask_token"}


@strict
class BackbonePreTrainingConfig(Frames, MaskedPredictionConfig):
    """Configuration of an encoder, its masks and its targets. Make it from a model with `of`.

    Masks, targets, loss and `ema_*` default to the published settings of data2vec 1.0 for the modality; text is masked
    as in BERT (15 % of the tokens, of which 80 % become the mask token, 10 % a random one, 10 % stay).

    Args:
        encoder_config: Configuration of the encoder, which the trained encoder will have.
        encoder_class: Name of its class.
        encoder_options: Arguments of that class beside the configuration.
        modality: "text", "vision" or "audio".
        layers: Name of its list of transformer layers.
        num_layers: How many of them run in a pass.
        ffn_output: Name, inside a layer, of the end of the feed-forward part; `None` with `end_of_block_targets`.
        mask_point: Name of the module where features are masked, see `find_mask_point`; `None` for text.
        mask_vector: Name of the encoder's own parameter for masked features; `None`: the pretraining model has one.
        untrained: Names of weights of the encoder that stay as they are: the loss does not reach them (poolers), or
            they were frozen when the encoder was given.
        vocab_size: Text: random tokens are drawn below it.
        pad_token_id, mask_token_id, special_token_ids: Text: of its tokenizer; special ones are never drawn.
        max_position_embeddings: Text: longest sequence in tokens; `None` for no limit.
        ema_decay, ema_end_decay, ema_anneal_end_step: Decay of the teacher, rising linearly over that many updates.
        mask_seed: Seed of masks that are drawn inside the model.

    Raises:
        ValueError: A setting is invalid.
    """

    model_type = "data2vec-backbone-pretraining"
    sub_configs_defaults = {"encoder_config": SubConfigSpec(AutoConfig, model_type="roberta", optional=True)}
    num_extra_tokens = 0  # prefix tokens of images are cut off before anything is averaged

    encoder_config: dict | PreTrainedConfig | None = None
    encoder_class: str | None = None
    encoder_options: dict | None = None
    modality: str = "text"
    layers: str | None = None
    num_layers: int = 1
    ffn_output: str | None = None
    mask_point: str | None = None
    mask_vector: str | None = None
    untrained: list[str] | None = None
    vocab_size: int | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    special_token_ids: list[int] | None = None
    max_position_embeddings: int | None = None
    ema_decay: float | int = 0.999
    ema_end_decay: float | int = 0.9999
    ema_anneal_end_step: int = 30_000
    mask_seed: int = 0
    num_masks: int = 1

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: Any = None, **settings: Any) -> "BackbonePreTrainingConfig":
        """Make the configuration for an encoder.

        Args:
            model: The encoder; weights are not read.
            tokenizer: For text: gives the ids of mask, padding and special tokens, and the longest text.
            settings: Fields of this class that replace what is found or the defaults.

        Raises:
            BackboneError: A part of the encoder was not found; the message names the setting for it.
        """
        modality = settings.pop("modality", None) or modality_of_input(model.main_input_name)
        if modality not in MODALITIES or not BACKBONE_INPUTS[modality].fits(model.config):
            raise BackboneError(
                f"{type(model).__name__} takes `{model.main_input_name}`. Encoders of token ids (`input_ids`), images "
                "(`pixel_values`) and waveforms (`input_values`, with convolutions) can be trained; those of "
                "spectrograms cannot."
            )
        unknown = sorted(settings.keys() - cls.own_fields())
        if unknown:
            raise BackboneError(
                f"There is no setting `{unknown[0]}`; the settings are {', '.join(sorted(cls.own_fields()))}."
            )
        check_encoder(model)
        is_text = MODALITIES[modality].default.corrupts_input
        layers = find_layers(model, settings.get("layers"))
        fields = {
            "encoder_config": copy.deepcopy(model.config),
            "encoder_class": type(model).__name__,
            "encoder_options": _structure(model),
            "modality": modality,
            **_published(modality, model.config),
            **(_of_tokenizer(model, tokenizer) if is_text else {}),
            **settings,
            "layers": layers,
            "mask_point": find_mask_point(model, modality, layers, settings.get("mask_point")),
            "mask_vector": find_mask_vector(model),
        }
        if is_text and fields["mask_token_id"] is None:
            raise BackboneError(
                f"The mask token of {type(model).__name__} is unknown. Pass its `tokenizer`, or `mask_token_id`; "
                "for a tokenizer without one, set `mask_token` to an unused token."
            )
        fields.setdefault("num_layers", getattr(model.config, "num_hidden_layers", len(model.get_submodule(layers))))
        if "average_top_k_layers" not in settings and isinstance(fields["num_layers"], int):
            fields["average_top_k_layers"] = min(fields["average_top_k_layers"], fields["num_layers"])
        if not fields.get("end_of_block_targets"):
            fields["ffn_output"] = find_feed_forward(model, layers, settings.get("ffn_output"))
            if fields["ffn_output"] is None:
                raise BackboneError(
                    f"The layers `{layers}` of {type(model).__name__} have no linear layer that could end a "
                    "feed-forward part. Name it as `ffn_output`, or set `end_of_block_targets=True` to predict the "
                    "layers' outputs instead."
                )
        return cls(**fields)

    @property
    def modalities(self) -> list[str]:
        """Return the only modality, as a list like that of `Data2VecConfig`."""
        return [self.modality]

    def modality_config(self, modality: str) -> "BackbonePreTrainingConfig":
        """Return this configuration, which is that of its only modality."""
        if modality != self.modality:
            raise ValueError(f"This model has no {modality!r} front end; it takes {self.modality}.")
        return self

    def _only(self, modality: str) -> "BackbonePreTrainingConfig | None":
        return self if self.modality == modality else None

    @property
    def text_config(self) -> "BackbonePreTrainingConfig | None":
        """Return this configuration if it is for text, as for a `Data2VecConfig`; else None."""
        return self._only("text")

    @property
    def vision_config(self) -> "BackbonePreTrainingConfig | None":
        """Return this configuration if it is for images; else None."""
        return self._only("vision")

    @property
    def audio_config(self) -> "BackbonePreTrainingConfig | None":
        """Return this configuration if it is for speech; else None."""
        return self._only("audio")

    @property
    def traits(self) -> FrontEnd:
        """Return the first front end of the modality, whose token layout the encoder shares."""
        return MODALITIES[self.modality].default

    @property
    def hidden_size(self) -> int:
        """Return the width of the encoder."""
        return self.encoder_config.hidden_size

    @property
    def image_size(self) -> int:
        """Return the side of the encoder's images in pixels."""
        return _side(self.encoder_config.image_size)

    @property
    def patch_size(self) -> int:
        """Return the side of a patch in pixels."""
        return _side(self.encoder_config.patch_size)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the numbers of patches down and across an image; the convolution ignores a rest at the edge."""
        return height // self.patch_size, width // self.patch_size

    def token_grid(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Return rows and columns of the tokens of an unbatched input of `shape`; None for a 1-D sequence."""
        return BACKBONE_INPUTS[self.modality].token_grid(self, shape)

    def token_count(self, shape: Sequence[int]) -> int:
        """Return the tokens of an unbatched input of `shape`, without padding."""
        grid = self.token_grid(shape)
        return self.num_tokens(shape[0]) if grid is None else grid[0] * grid[1]

    def num_tokens(self, length: Any) -> Any:
        """Return the tokens of an input of `length` ids or samples (int or integer tensor); not for images."""
        return BACKBONE_INPUTS[self.modality].num_tokens(self, length)

    @property
    def num_channels(self) -> int:
        """Return the number of image channels."""
        return self.encoder_config.num_channels

    @property
    def conv_kernel(self) -> list[int]:
        """Return the kernel sizes of the convolutions over the waveform."""
        return list(self.encoder_config.conv_kernel)

    @property
    def conv_stride(self) -> list[int]:
        """Return the strides of the convolutions over the waveform."""
        return list(self.encoder_config.conv_stride)

    def tokens_of(
        self, inputs: Tensor, attention_mask: Tensor | None
    ) -> tuple[int, Tensor | None, tuple[int, int] | None]:
        """Return T, the mask of the real tokens (B, T) (None = all), and the grid of images.

        Raises:
            ValueError: Mask and input have different shapes, or a recording is shorter than a frame.
        """
        if attention_mask is not None and attention_mask.shape != inputs.shape:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}, the input {tuple(inputs.shape)}; they "
                "must be the same, with 1 for real and 0 for padding."
            )
        length, real, grid = BACKBONE_INPUTS[self.modality].tokens_of(self, inputs, attention_mask)
        if real is not None and not torch.compiler.is_compiling() and real.all():
            real = None
        return length, real, grid

    def example(self, tokens: int, device: torch.device | str) -> Tensor:
        """Return an input of one sample without content, of `tokens` tokens or of the encoder's image size."""
        return BACKBONE_INPUTS[self.modality].example(self, tokens, device)

    def make_encoder(self, train: bool = False) -> PreTrainedModel:
        """Return an encoder of this class and structure with new weights.

        Args:
            train: Switch off masking and layer drop of the encoder's class (SpecAugment): the masks of the objective
                are the only ones, and every layer gives a target.
        """
        config = copy.deepcopy(self.encoder_config)
        if train:
            BACKBONE_INPUTS[self.modality].without_masks(config)
        if train and hasattr(config, "layerdrop"):
            config.layerdrop = 0.0
        options = {"dtype": torch.float32, **(self.encoder_options or {})}
        return _class_named(self.encoder_class, config)._from_config(config, **options)

    def check(self) -> None:
        super().check()
        owner = type(self).__name__
        one_of(owner, "modality", self.modality, MODALITIES)
        for field in ("ema_decay", "ema_end_decay"):
            in_range(owner, field, getattr(self, field), 0.0, 1.0)
        in_range(owner, "ema_anneal_end_step", self.ema_anneal_end_step, 0)
        in_range(owner, "num_layers", self.num_layers, 1)
        in_range(owner, "average_top_k_layers", self.average_top_k_layers or self.num_layers, 1, self.num_layers)
        BACKBONE_INPUTS[self.modality].check(self)
        if self.mask_sampler not in self.traits.samplers:
            raise ValueError(
                f"{owner}: `mask_sampler` is {self.mask_sampler!r}; the tokens of {MODALITIES[self.modality].content} "
                f"form a {self.traits.geometry}, for which it must be one of "
                f"{', '.join(map(repr, self.traits.samplers))}."
            )


def _published(modality: str, encoder: PreTrainedConfig) -> dict[str, Any]:
    """Return the settings of data2vec 1.0, base size."""
    preset = get_preset(f"{modality}-base-v1")
    known = MaskedPredictionConfig.own_fields()
    fields = {name: value for name, value in preset[f"{modality}_config"].items() if name in known}
    fields |= {name: preset[name] for name in ("ema_decay", "ema_end_decay", "ema_anneal_end_step")}
    fields["ema_copied"] = BACKBONE_INPUTS[modality].copied
    return fields | BACKBONE_INPUTS[modality].published(encoder)


def _of_tokenizer(model: PreTrainedModel, tokenizer: Any) -> dict[str, Any]:
    """Return special token ids and sizes from the tokenizer, or else from the configuration of the encoder."""
    config = model.config
    rows = model.get_input_embeddings().num_embeddings
    pad, mask = getattr(config, "pad_token_id", None), getattr(config, "mask_token_id", None)
    special = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")]
    longest = [longest_text(model)]
    if tokenizer is not None:
        pad, mask = tokenizer.pad_token_id, tokenizer.mask_token_id
        special = list(tokenizer.all_special_ids)
        rows = min(rows, len(tokenizer))
        if rows <= len(special):
            raise BackboneError(
                f"The tokenizer for {type(model).__name__} has only special tokens: its files were not found. Pass "
                "the encoder's as `tokenizer`."
            )
        longest.append(tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None)
    return {
        "vocab_size": rows,
        "pad_token_id": pad,
        "mask_token_id": mask,
        "special_token_ids": sorted({i for i in special if isinstance(i, int)}),
        "max_position_embeddings": min((length for length in longest if length is not None), default=None),
    }


def longest_text(model: PreTrainedModel) -> int | None:
    """Return the longest sequence that the position table of an encoder holds."""
    rows = getattr(model.config, "max_position_embeddings", None)
    for module in model.modules():
        # Tables of RoBERTa's kind count from the padding on: their first rows are not positions.
        if isinstance(module, nn.Embedding) and module.num_embeddings == rows and module.padding_idx is not None:
            if module is not model.get_input_embeddings():
                return rows - module.padding_idx - 1
    return rows


def _structure(model: PreTrainedModel) -> dict[str, bool]:
    """Return the values of the `_STRUCTURE` arguments that the model was made with."""
    taken = inspect.signature(type(model).__init__).parameters
    found = {}
    for argument, part in _STRUCTURE.items():
        if argument in taken:
            owner, _, name = part.rpartition(".")
            found[argument] = getattr(model.get_submodule(owner), name, None) is not None
    return found


def _side(value: int | list[int] | tuple[int, ...]) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) > 1:
        raise BackboneError(f"The encoder takes images or patches of {value} pixels; both sides must be equal.")
    return sides.pop()


def plain_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Return the encoder itself, or the one inside a model with a head."""
    return model if type(model) in auto_classes(model.config) else model.base_model


def auto_classes(config: PreTrainedConfig) -> list[type[PreTrainedModel]]:
    """Return the classes that `AutoModel` makes of a configuration."""
    found = AutoModel._model_mapping.get(type(config), None)
    return list(found) if isinstance(found, tuple | list) else [found] * (found is not None)


def _class_named(name: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the encoder class of a name: that of `AutoModel` for the configuration, or another one beside it."""
    for candidate in auto_classes(config):
        if candidate.__name__ == name:
            return candidate
    module = sys.modules.get(type(config).__module__.replace("configuration_", "modeling_"))
    found = getattr(transformers, name, None) or getattr(module, name, None)
    if found is None:
        raise BackboneError(f"There is no encoder class `{name}` for a {type(config).__name__}.")
    return found
