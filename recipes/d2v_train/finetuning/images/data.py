"""Data of image classification: options, labelled parts, class names, the image processor and the transforms.

Legend: N samples, L classes.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from d2v_train.data.labels import hold_out
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import SplitNotFoundError, column_named_by
from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.class_labels import NO_LABEL, fraction_of_each_class, labelled
from d2v_train.finetuning.images.augmentation import AugmentedTransform, Mixing, RandAugment, RandomErasing
from d2v_train.inputs.processors import image_processor
from d2v_train.inputs.vision import ColorJitter, VisionTransform
from d2v_train.options.errors import at_least
from modeling_d2v import Data2VecConfig


logger = logging.getLogger(__name__)


@dataclass
class ImageDataArguments:
    """Which images to train on and to evaluate on."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": 'Name on the Hub, or a local folder or parquet file; "builtin" for the built-in digits.'},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_dir: str | None = field(default=None, metadata={"help": "Folder of the training images, one per class."})
    validation_dir: str | None = field(default=None, metadata={"help": "Folder of the validation images."})
    test_dir: str | None = field(default=None, metadata={"help": "Folder of the images of --do_predict."})
    train_split: str = field(default="train", metadata={"help": "Split of the data set to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    test_split: str = field(default="test", metadata={"help": "Split of --do_predict."})
    train_val_split: float = field(
        default=0.15, metadata={"help": "Share of each class that is held out where there is no validation split."}
    )
    image_column_name: str | None = field(default=None, metadata={"help": "Column of the images; found by itself."})
    label_column_name: str | None = field(default=None, metadata={"help": "Column of the classes; found by itself."})
    train_fraction: float = field(
        default=1.0, metadata={"help": "Share of each class to train on, at least one image: few-label experiments."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "At most so many, drawn by --seed."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "At most so many, drawn once for all."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "At most so many, drawn once for all."})
    image_size: int | None = field(
        default=None, metadata={"help": "Pixels a side, a multiple of the patch size; default: as in pretraining."}
    )
    crop_pct: float | None = field(
        default=None,
        metadata={
            "help": "Share of the shorter side that evaluation cuts out; default: 0.875, and 1 for images of at most "
            "32 or more than 224 pixels."
        },
    )

    def __post_init__(self) -> None:
        if self.dataset_name is None and self.train_dir is None and self.validation_dir is None is self.test_dir:
            raise ValueError("Name the images with --dataset_name, or with --train_dir and --validation_dir.")
        for name, may_be_one in (("train_val_split", False), ("train_fraction", True), ("crop_pct", True)):
            value = getattr(self, name)
            if value is not None and not (0 < value < 1 or (may_be_one and value == 1)):
                raise ValueError(
                    f"--{name} is {value}; it must be above 0 and {'at most' if may_be_one else 'below'} 1."
                )
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples", "image_size"):
            at_least(f"--{name}", getattr(self, name), 1)

    @property
    def source(self) -> str | None:
        """What `open_dataset` takes."""
        if self.dataset_name is None or self.dataset_config_name is None:
            return self.dataset_name
        return f"{self.dataset_name}:{self.dataset_config_name}"

    def open(self, part: str, channels: int) -> RawDataset:
        """The images of "train", "validation" or "test".

        Raises:
            ValueError: if there are none.
        """
        folder, split = getattr(self, f"{part}_dir"), getattr(self, f"{part}_split")
        options = {
            "column": self.image_column_name,
            "label_column": self.label_column_name,
            "channels": channels,
        }
        if folder is None and self.source is None:
            raise ValueError(f"There are no {part} images: name them with --{part}_dir or --dataset_name.")
        with column_named_by("--image_column_name"):
            try:
                return open_dataset("vision", self.source if folder is None else folder, split, **options)
            except SplitNotFoundError:
                if folder is None:
                    raise
                # A folder of its own has no splits: all that is in it is called "train".
                return open_dataset("vision", folder, "train", **options)

    def open_training_parts(self, channels: int, seed: int, evaluate: bool) -> tuple[RawDataset, RawDataset | None]:
        """Training and validation images; the latter held out of the former where they have no place of their own.

        Args:
            channels: of the model.
            seed: draws the part of `train_fraction` and `max_train_samples`.
            evaluate: whether validation images are needed.
        """
        train, validation = self.open("train", channels), None
        labelled(train, "training")
        if evaluate and (self.validation_dir is not None or self.train_dir is None):
            with contextlib.suppress(SplitNotFoundError):
                validation = self.open("validation", channels)
        if evaluate and validation is None:
            train, validation = hold_out(train, share=self.train_val_split)
            logger.warning(
                "There is no validation split: %g %% of each class are held out of the training images (%d, %d stay).",
                100 * self.train_val_split,
                len(validation),
                len(train),
            )
        if self.train_fraction < 1:
            train = train.select(fraction_of_each_class(train.labels, self.train_fraction, seed))
        if validation is not None:
            validation = validation.subset(self.max_eval_samples)
        return train.subset(self.max_train_samples, seed), validation


@dataclass
class AugmentationArguments:
    """How training images are changed. The defaults are those of the published fine-tuning."""

    crop_scale: list[float] = field(
        default_factory=lambda: [0.08, 1.0], metadata={"help": "Least and greatest share of the area of a crop."}
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3], metadata={"help": "Least and greatest width to height of a crop."}
    )
    flip: bool = field(default=True, metadata={"help": "Flip left to right half of the time; off for digits."})
    color_jitter: float = field(
        default=0.0, metadata={"help": "Change of brightness, contrast and saturation, up to 1; 0 = off."}
    )
    randaugment_operations: int = field(default=2, metadata={"help": "RandAugment's operations an image; 0 = off."})
    randaugment_magnitude: float = field(default=9.0, metadata={"help": "Their mean strength, 0 to 10."})
    randaugment_std: float = field(default=0.5, metadata={"help": "Standard deviation of the strength."})
    random_erasing: float = field(default=0.25, metadata={"help": "Share of the images that lose a rectangle."})
    mixup: float = field(default=0.7, metadata={"help": "Parameter of mixup's beta distribution; 0 = off."})
    cutmix: float = field(default=1.0, metadata={"help": "Parameter of CutMix's beta distribution; 0 = off."})
    mix_probability: float = field(default=0.9, metadata={"help": "Share of the batches that are mixed."})
    cutmix_probability: float = field(default=0.5, metadata={"help": "Share of those that CutMix takes."})

    def mixing(self, num_classes: int, smoothing: float) -> Mixing:
        """What mixes the batches and smooths the labels of training."""
        return Mixing(num_classes, self.mixup, self.cutmix, self.mix_probability, self.cutmix_probability, smoothing)

    def transform(self, processor: Any, channels: int) -> AugmentedTransform:
        """The transform of training images, to the size and normalisation of an image processor."""
        mean, std = normalisation(processor)
        on_image = [ColorJitter(self.color_jitter)] if self.color_jitter else []
        if self.randaugment_operations:
            fill = [min(255, round(255 * value)) for value in mean]
            on_image.append(
                RandAugment(self.randaugment_operations, self.randaugment_magnitude, self.randaugment_std, fill=fill)
            )
        crop = VisionTransform(
            image_size=output_size(processor),
            num_channels=channels,
            crop_scale=tuple(self.crop_scale),
            crop_aspect=tuple(self.crop_ratio),
            flip=self.flip,
            mean=mean,
            std=std,
        )
        return AugmentedTransform(crop, on_image, [RandomErasing(self.random_erasing)] if self.random_erasing else [])


class ProcessorTransform:
    """Evaluation: what the image processor makes of a picture, and so what a pipeline gives the model.

    Args:
        processor: image processor that is saved with the model.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"pixel_values": float32 (C, H, W), "id"}."""
        pixels = self.processor(record["image"], return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": pixels.to(torch.float32), "id": record["id"]}


def make_image_processor(
    model_args: ModelArguments, config: Data2VecConfig, image_size: int | None, crop_pct: float | None, train: bool
) -> Any:
    """The image processor that evaluates, and is saved with the model.

    Mean and standard deviation, and without --image_size the size, are those of the checkpoint's image processor.

    Args:
        model_args: where it is.
        config: of the model.
        image_size, crop_pct: options of the same names.
        train: whether the model is trained: only then, or where a size is named, is the processor changed.

    Raises:
        ValueError: if the size is no multiple of the patch size.
    """
    stored = _stored_processor(model_args)
    if stored is not None and not train and image_size is None is crop_pct:
        return stored
    mean, std = normalisation(stored) if stored is not None else _default_normalisation(config)
    size = image_size or (output_size(stored) if stored is not None else None) or config.vision_config.image_size
    config.vision_config.grid_size(size, size)
    if crop_pct is None:
        crop_pct = 0.875 if 32 < size <= 224 else 1.0
    processor = image_processor(config, VisionTransform(size, config.vision_config.num_channels, mean=mean, std=std))
    changes = {"size": {"shortest_edge": int(size / crop_pct)}, "crop_size": {"height": size, "width": size}}
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
        logger.warning("No image processor lies beside %s (%s).", name, str(error).splitlines()[0])
        return None


def _default_normalisation(config: Data2VecConfig) -> tuple[list[float], list[float]]:
    if config.vision_config.num_channels == 3:
        mean, std = list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
    else:
        mean, std = [0.5] * config.vision_config.num_channels, [0.5] * config.vision_config.num_channels
    logger.warning("Images are normalised with mean %s and standard deviation %s.", mean, std)
    return mean, std


def normalisation(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, per channel, that an image processor normalises with."""
    if not getattr(processor, "do_normalize", False):
        return [0.0], [1.0]
    return list(np.atleast_1d(processor.image_mean)), list(np.atleast_1d(processor.image_std))


def output_size(processor: Any) -> int | None:
    """Pixels a side of what an image processor returns; None where it does not say so."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    size = dict(size or {})
    return size.get("height") or size.get("shortest_edge")


def accuracies(top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of the samples whose class is the first, and with more than five classes is among the first five.

    Args:
        top: (N, min(L, 6)) class ids, most probable first.
        labels: (N,) class ids; those of `NO_LABEL` are left out.
    """
    counted = labels != NO_LABEL
    hits = top[counted] == labels[counted, None]
    result = {"accuracy": float(hits[:, 0].mean()) if counted.any() else 0.0}
    if top.shape[1] > 5:
        result["top_5_accuracy"] = float(hits[:, :5].any(axis=1).mean()) if counted.any() else 0.0
    return result
