"""Transforms, padding and processors of each modality.

`data/kinds.py` describes the sources of the records, `modeling_d2v/modalities.py` the front ends of the model; all
three have the same keys. To add a modality, write its transform and add an entry to each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer

from d2v_train.inputs.arrays import ArrayTransform
from d2v_train.inputs.audio import AudioTransform
from d2v_train.inputs.processors import (
    SavedArrayExtractor,
    array_feature_extractor,
    bounded_tokenizer,
    feature_extractor,
    image_processor,
)
from d2v_train.inputs.text import TextTransform
from d2v_train.inputs.vision import VisionTransform


@dataclass(frozen=True)
class DataKind:
    """Inputs of one modality.

    Args:
        transform: Class of its transforms. `of_model(settings, tokenizer)` and `of_processor(processor)` return the
            options that follow from the configuration of the modality, and from the processor saved with a model.
        processor: Part of a `Data2VecProcessor` that matches the transform in evaluation.
        make_processor: `make_processor(config, transform, tokenizer)` returns that part.
        auto_class: Class that loads that part with `from_pretrained`.
        evaluation_options: Options of a training transform that evaluation shares.
        probe_batch_size: Samples per forward pass of a probe.
        padding: `padding(settings)` returns the padding value of a batch. It is None, or returns None, if all inputs
            have one shape.
        longest: Option of the transform that limits the length of inputs; None if all have one shape.
        source: `source(settings)` returns the fields of `SourceSettings` that follow from the configuration of the
            modality.
        has_tokenizer: Whether inputs are made by a tokenizer.
    """

    transform: type
    processor: str
    make_processor: Callable[[Any, Any, Any], Any]
    auto_class: type
    evaluation_options: tuple[str, ...]
    probe_batch_size: int
    padding: Callable[[Any], float | None] | None = None
    longest: str | None = None
    source: Callable[[Any], dict[str, Any]] = lambda settings: {}
    has_tokenizer: bool = False


DATA_KINDS: dict[str, DataKind] = {
    "text": DataKind(
        TextTransform,
        "tokenizer",
        lambda config, transform, tokenizer: bounded_tokenizer(config, tokenizer),
        AutoTokenizer,
        ("max_length",),
        probe_batch_size=32,
        padding=lambda settings: settings.pad_token_id,
        longest="max_length",
        has_tokenizer=True,
    ),
    "vision": DataKind(
        VisionTransform,
        "image_processor",
        lambda config, transform, tokenizer: image_processor(config, transform),
        AutoImageProcessor,
        ("mean", "std"),
        probe_batch_size=64,
        source=lambda settings: {"channels": settings.num_channels},
    ),
    "audio": DataKind(
        AudioTransform,
        "feature_extractor",
        lambda config, transform, tokenizer: feature_extractor(config, transform.standardised),
        AutoFeatureExtractor,
        ("max_seconds", "standardised"),
        probe_batch_size=16,
        padding=lambda settings: 0.0,
        longest="crop_seconds",
    ),
    "arrays": DataKind(
        ArrayTransform,
        "array_feature_extractor",
        lambda config, transform, tokenizer: array_feature_extractor(config, transform),
        SavedArrayExtractor,
        ("mean", "std", "crop_length", "sampling_rate"),
        probe_batch_size=32,
        padding=lambda settings: 0.0 if settings.num_dims == 1 else None,
        longest="crop_length",
        source=lambda settings: {"num_dims": settings.num_dims, "num_channels": settings.num_channels},
    ),
}


def source_defaults(config: Any, modality: str) -> dict[str, Any]:
    """Return the fields of `SourceSettings` that follow from the configuration of a model."""
    return DATA_KINDS[modality].source(config.modality_config(modality))
