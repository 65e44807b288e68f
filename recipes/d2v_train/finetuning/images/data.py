"""Images for fine-tuning: image processor and transforms for training and evaluation."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.images.arguments import AugmentationArguments
from d2v_train.finetuning.images.augmentation import AugmentedTransform, RandAugment, RandomErasing
from d2v_train.finetuning.plain_models import PlainConfig, plain_image_processor
from d2v_train.inputs.processors import image_processor
from d2v_train.inputs.vision import ColorJitter, VisionTransform
from modeling_d2v import Data2VecConfig


logger = logging.getLogger(__name__)


def training_transform(augmentation: AugmentationArguments, processor: Any, channels: int) -> AugmentedTransform:
    """Return the transform of training images.

    Args:
        augmentation: Options of the augmentation.
        processor: Image processor that defines size and normalisation.
        channels: Number of channels of the model.
    """
    mean, std = normalisation(processor)
    on_image = [ColorJitter(augmentation.color_jitter)] if augmentation.color_jitter else []
    if augmentation.randaugment_operations:
        strength = (augmentation.randaugment_magnitude, augmentation.randaugment_std)
        fill = [min(255, round(255 * value)) for value in mean]
        on_image.append(RandAugment(augmentation.randaugment_operations, *strength, fill=fill))
    crop = VisionTransform(
        image_size=output_size(processor),
        num_channels=channels,
        crop_scale=tuple(augmentation.crop_scale),
        crop_aspect=tuple(augmentation.crop_ratio),
        flip=augmentation.flip,
        mean=mean,
        std=std,
    )
    erasing = [RandomErasing(augmentation.random_erasing)] if augmentation.random_erasing else []
    return AugmentedTransform(crop, on_image, erasing)


class ProcessorTransform:
    """Transform for evaluation by the image processor, as in a pipeline of transformers.

    Args:
        processor: Image processor that is saved with the model.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"pixel_values": float32 (C, H, W), "id"}."""
        pixels = self.processor(record["image"], return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels.to(torch.float32), "id": record["id"]}


def make_image_processor(
    model_args: ModelArguments,
    config: Data2VecConfig | PlainConfig,
    image_size: int | None,
    crop_pct: float | None,
    train: bool,
) -> Any:
    """Return the image processor for evaluation, which is saved with the model.

    Mean, standard deviation and, without --image_size, the size are those of the image processor of the checkpoint.

    Args:
        model_args: Options that name the image processor or the checkpoint.
        config: Configuration of the model.
        image_size, crop_pct: Options of the same names.
        train: Whether the model is trained. Otherwise, and without these two options, a stored processor is kept.

    Raises:
        ValueError: If the size is not a multiple of the patch size.
    """
    stored = _stored_processor(model_args)
    if stored is not None and not train and image_size is None is crop_pct:
        return stored
    mean, std = normalisation(stored) if stored is not None else _default_normalisation(config)
    if isinstance(config, PlainConfig):
        return plain_image_processor(stored, config, mean, std, image_size, crop_pct)
    size = image_size or (output_size(stored) if stored is not None else None) or config.vision_config.image_size
    config.vision_config.grid_size(size, size)
    if crop_pct is None:
        crop_pct = 0.875 if 32 < size <= 224 else 1.0
    processor = image_processor(config, VisionTransform(size, config.vision_config.num_channels, mean=mean, std=std))
    changes = {"size": {"shortest_edge": int(size / crop_pct)}, "crop_size": {"height": size, "width": size}}
    changes["value_range"] = getattr(stored, "value_range", None)
    return type(processor).from_dict(processor.to_dict() | changes)


def _stored_processor(model_args: ModelArguments) -> Any:
    name = model_args.processor_name or model_args.model_name_or_path
    if name is None:
        return None
    try:
        return AutoImageProcessor.from_pretrained(name, **model_args.hub_options)
    except (OSError, ValueError, ImportError) as error:
        if model_args.processor_name is not None:
            raise
        logger.warning("%s has no image processor (%s).", name, str(error).splitlines()[0])
        return None


def _default_normalisation(config: Data2VecConfig) -> tuple[list[float], list[float]]:
    if config.vision_config.num_channels == 3:
        mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    else:
        mean, std = [0.5] * config.vision_config.num_channels, [0.5] * config.vision_config.num_channels
    logger.warning("Images are normalised with mean %s and standard deviation %s.", mean, std)
    return mean, std


def normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation per channel of the normalisation of an image processor."""
    if not getattr(processor, "do_normalize", False):
        return [0.0], [1.0]
    return list(np.atleast_1d(processor.image_mean)), list(np.atleast_1d(processor.image_std))


def output_size(processor: Any) -> int | None:
    """Return the pixels per side of the output of an image processor; None if it does not fix them."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    size = dict(size or {})
    return size.get("height") or size.get("shortest_edge")
