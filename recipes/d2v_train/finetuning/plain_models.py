"""Encoders of transformers in the fine-tuning programs, with the heads and processors of transformers.

The tasks ask the configuration of a model for the sizes of its input and for the fields of its head; `PlainConfig`
answers for a configuration of transformers, and writes what the tasks set under the names that it has there.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BitImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from d2v_train.inputs.audio import AudioTransform
from d2v_train.models.backbones import encoder_modality, load_processor
from modeling_d2v import BackbonePreTrainingConfig
from modeling_d2v.backbone_configuration import longest_text
from modeling_d2v.backbone_inputs import BACKBONE_INPUTS
from modeling_d2v.heads import sequence_loss
from modeling_d2v.modalities import MODALITIES


logger = logging.getLogger(__name__)

NAMES = {
    "hidden_dropout": ("hidden_dropout", "hidden_dropout_prob", "embedding_dropout"),
    "attention_dropout": ("attention_dropout", "attention_probs_dropout_prob"),
}
"""Settings that transformers has under several names."""
SILENT = ("mlp_dropout", "prenet_dropout", "prenet_layerdrop")
"""Settings of parts that only models of this package have."""
DEFAULTS = {"ctc_loss_reduction": "mean", "ctc_zero_infinity": True}
"""Settings that are not left to the checkpoint: a sum over the batch has another learning rate at each batch size."""


class PlainConfig:
    """Configuration of an encoder of transformers with a head.

    Args:
        config: Its configuration.
        where: Its folder or name, for messages.

    Attributes:
        plain: Copy of the configuration, for the model.
        modality: Modality of its input.

    Raises:
        OptionError: The input has another form than tokens, images or waveforms.
    """

    def __init__(self, config: PreTrainedConfig, where: str) -> None:
        self.plain = copy.deepcopy(config)
        self.modality = encoder_modality(config, where)
        self.modalities = [self.modality]
        inputs = BACKBONE_INPUTS[self.modality]
        if not inputs.fits(config):
            raise ValueError(f"{where} takes spectrograms; encoders of waveforms can be fine-tuned here.")
        sizes: dict[str, Any] = {"mask_sampler": MODALITIES[self.modality].default.samplers[0]}
        if self.modality == "text":
            with torch.device("meta"):
                model = AutoModel.from_config(self.plain)
            sizes |= {
                "vocab_size": model.get_input_embeddings().num_embeddings,
                "pad_token_id": config.pad_token_id,
                "max_position_embeddings": longest_text(model),
            }
        self._inputs = BackbonePreTrainingConfig(encoder_config=self.plain, modality=self.modality, **sizes)

    def modality_config(self, modality: str) -> BackbonePreTrainingConfig:
        """Return the sizes of the input, under the names of this package.

        Raises:
            ValueError: The encoder takes another modality.
        """
        return self._inputs.modality_config(modality)

    def __getattr__(self, name: str) -> Any:
        if name in [f"{modality}_config" for modality in MODALITIES]:
            return getattr(self._inputs, name)
        if name in ("id2label", "num_labels", "problem_type", "architectures"):
            return getattr(self.plain, name)
        raise AttributeError(name)

    def override(self, fields: dict[str, Any]) -> None:
        """Set fields under the names of transformers; None keeps one. Those that it lacks are logged."""
        lacking = []
        for name, value in _flat(fields):
            value = DEFAULTS.get(name) if value is None else value
            known = [own for own in NAMES.get(name, (name,)) if hasattr(self.plain, own)]
            if value is None or (not known and name in SILENT):
                continue
            if not known and name not in ("id2label", "label2id", "problem_type"):
                lacking.append(name)
            for own in known:
                setattr(self.plain, own, value)
        if self.modality == "audio":
            for name in ("vocab_size", "pad_token_id"):
                setattr(self._inputs, name, getattr(self.plain, name, None))
        if lacking:
            kind = type(self.plain).__name__
            logger.info("%s has no %s: without effect on this model.", kind, ", ".join(lacking))


def _flat(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a configuration and those of its parts."""
    for name, value in fields.items():
        if name.endswith("_config") and isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def load_plain_model(auto_class: Any, name: str | None, config: PlainConfig, **options: Any) -> PreTrainedModel:
    """Load the encoder with a head of transformers; from random weights without a name.

    Args:
        auto_class: Auto class, such as `AutoModelForCTC`.
        name: Checkpoint; None for random weights.
        config: Its configuration.
        options: Arguments of `from_pretrained`.

    Raises:
        ValueError: transformers has no such head for the encoder.
    """
    if type(config.plain) not in auto_class._model_mapping:
        raise ValueError(
            f"transformers has no {auto_class.__name__} for a model of type {config.plain.model_type!r}. Start from "
            "another encoder."
        )
    if name is None:
        return auto_class.from_config(config.plain, dtype=torch.float32)
    return auto_class.from_pretrained(name, config=config.plain, dtype=torch.float32, **options)


def plain_loss(config: PlainConfig) -> Any:
    """Return a loss for `Trainer` that takes soft labels and leaves flags of -100 out, which transformers does not."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        return sequence_loss(config.plain, outputs["logits"], labels, num_items_in_batch)

    return loss


def plain_layer_scale(name: str, model: PreTrainedModel, decay: float) -> float:
    """Return the learning rate factor of a parameter: `decay` ** (distance from the head).

    The embeddings are the lowest layer; the factor of the head, the pooler and the final norm is 1.

    Args:
        name: Parameter of the model.
        model: The model.
        decay: Factor from each layer to the one below.
    """
    top = model.config.num_hidden_layers + 1
    block = re.search(r"\blayers?\.(\d+)\.", name.partition("feature_extractor.")[0])
    if block:
        level = int(block[1]) + 1
    else:
        low = ("embed", "feature_extractor", "feature_projection", "conv_layers", "patch", "position")
        level = 0 if name.startswith(model.base_model_prefix) and any(part in name for part in low) else top
    return decay ** (top - level)


def output_bias(model: PreTrainedModel) -> nn.Parameter | None:
    """Return the bias of the last linear layer of a model with one output."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1]
    return layers[-1].bias if layers else None


def plain_image_processor(
    stored: Any,
    config: PlainConfig,
    mean: list[float],
    std: list[float],
    image_size: int | None,
    crop_pct: float | None,
) -> Any:
    """Return the image processor for evaluation, which is saved with the model: the encoder's, or one for its size.

    Args:
        stored: Image processor of the encoder, or None.
        config: Configuration of the encoder.
        mean, std: Normalisation without a stored one.
        image_size, crop_pct: Options of the program.

    Raises:
        ValueError: The size is not that of the encoder.
    """
    size = config.vision_config.image_size
    if image_size not in (None, size):
        raise ValueError(
            f"--image_size is {image_size}, but {type(config.plain).__name__} has positions for {size} pixels. Leave "
            "it out."
        )
    if stored is not None and crop_pct is None:
        return stored
    return BitImageProcessor(
        do_convert_rgb=config.vision_config.num_channels == 3,
        size={"shortest_edge": int(size / (crop_pct or 1.0))},
        crop_size={"height": size, "width": size},
        resample=3,
        image_mean=mean,
        image_std=std,
    )


class PlainSpeech:
    """Feature extractor of an encoder of waveforms, and what follows from it.

    Args:
        name: Folder or name of the encoder, or of the processor.
    """

    def __init__(self, name: str) -> None:
        self.extractor = load_processor(name, "audio") or Wav2Vec2FeatureExtractor(return_attention_mask=True)
        self.transform = AudioTransform.of_processor(self.extractor)

    def processor(self, tokenizer: Any) -> Any:
        """Return the processor to save with the model."""
        return self.extractor if tokenizer is None else Wav2Vec2Processor(self.extractor, tokenizer)
