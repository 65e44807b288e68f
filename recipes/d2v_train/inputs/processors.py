"""Processors of transformers with the settings of a run's transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import Wav2Vec2FeatureExtractor

from d2v_train.support.extras import need
from modeling_d2v import Data2VecConfig, Data2VecImageProcessor


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


def bounded_tokenizer(config: Data2VecConfig, tokenizer: Any) -> Any:
    """Set the maximum length of a tokenizer to that of the model, and return it."""
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    return tokenizer
