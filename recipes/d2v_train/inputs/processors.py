"""Processors of transformers with the settings of a run's transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import Wav2Vec2FeatureExtractor

from d2v_train.support.extras import need
from modeling_d2v import (
    Data2VecArrayFeatureExtractor,
    Data2VecConfig,
    Data2VecImageProcessor,
    Data2VecProcessor,
)


def image_processor(config: Data2VecConfig, transform: Any) -> Data2VecImageProcessor:
    """Return an image processor that matches `VisionTransform` in evaluation.

    Args:
        config: Configuration of the model.
        transform: `VisionTransform` of the run.

    Raises:
        MissingDependencyError: If pillow is not installed.
    """
    need("PIL.Image", "vision")
    size, channels = config.vision_config.image_size, config.vision_config.num_channels
    return Data2VecImageProcessor(
        num_channels=channels,
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=3,  # bicubic, as in training
        image_mean=np.broadcast_to(transform.mean, channels).tolist(),
        image_std=np.broadcast_to(transform.std, channels).tolist(),
        value_range=transform.value_range,
    )


def feature_extractor(config: Data2VecConfig, standardised: bool | None = None) -> Wav2Vec2FeatureExtractor:
    """Return a feature extractor that standardises each waveform or leaves it as it is, as in training.

    Args:
        config: Configuration of the model.
        standardised: Whether the run standardises. Default: as the front end requires.
    """
    if standardised is None:
        standardised = config.audio_config.traits.standardised
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=config.audio_config.sampling_rate,
        padding_value=0.0,
        do_normalize=standardised,
        return_attention_mask=True,
    )


def array_feature_extractor(config: Data2VecConfig, transform: Any) -> Data2VecArrayFeatureExtractor:
    """Return a feature extractor that standardises arrays as in training.

    Args:
        config: Configuration of the model.
        transform: `ArrayTransform` of the run, fitted. Its crop and sampling rate are kept with the extractor, for
            fine-tuning and probes.
    """
    kept = {name: getattr(transform, name) for name in ("crop_length", "sampling_rate")}
    return Data2VecArrayFeatureExtractor(
        num_dims=config.arrays_config.num_dims,
        num_channels=config.arrays_config.num_channels,
        mean=0.0 if transform.mean is None else transform.mean,
        std=1.0 if transform.std is None else transform.std,
        **{name: value for name, value in kept.items() if value is not None},
    )


class SavedArrayExtractor:
    """Loader of the feature extractor of arrays beside a model, also of one that has another for recordings."""

    @staticmethod
    def from_pretrained(source: str, **options: Any) -> Data2VecArrayFeatureExtractor:
        """Return the feature extractor of a folder or a name on the Hub.

        Raises:
            ValueError: There is none.
        """
        processor = Data2VecProcessor.from_pretrained(source, **options)
        if "array_feature_extractor" not in processor.get_attributes():
            raise ValueError(f"{source} has no feature extractor of arrays.")
        return processor.array_feature_extractor


def bounded_tokenizer(config: Data2VecConfig, tokenizer: Any) -> Any:
    """Set the maximum length of a tokenizer to that of the model, and return it."""
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    return tokenizer
