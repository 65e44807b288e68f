"""Options for images: which ones are used, and how those of the training are changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from d2v_train.finetuning.arguments import ClassArguments, MediaDataArguments, check_share, option
from d2v_train.options.errors import at_least


@dataclass
class ImageDataArguments(ClassArguments, MediaDataArguments):
    """Which images to train on, to evaluate on and to predict."""

    modality = "vision"
    input_column = "image_column"

    image_column: str | None = option(None, "Column of the images; default: found by its type.")
    image_size: int | None = option(None, "Pixels a side, a multiple of the patch size; default: as in pretraining.")
    crop_pct: float | None = option(
        None, "Share of the shorter side that evaluation cuts out; default: 0.875, or 1 up to 32 and above 224 pixels."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--image_size", self.image_size, 1)
        if self.crop_pct is not None:
            check_share("crop_pct", self.crop_pct, whole=True)


@dataclass
class AugmentationArguments:
    """How training images are changed. The defaults are those of the published fine-tuning."""

    title: ClassVar[str] = "augmentation"

    crop_scale: list[float] = option([0.08, 1.0], "Least and greatest share of the area of a crop.")
    crop_ratio: list[float] = option([3 / 4, 4 / 3], "Least and greatest width to height of a crop.")
    flip: bool = option(True, "Flip left to right half of the time; off for digits.")
    color_jitter: float = option(0.0, "Change of brightness, contrast and saturation, up to 1; 0 = off.")
    randaugment_operations: int = option(2, "RandAugment's operations an image; 0 = off.")
    randaugment_magnitude: float = option(9.0, "Their mean strength, 0 to 10.")
    randaugment_std: float = option(0.5, "Standard deviation of the strength.")
    random_erasing: float = option(0.25, "Share of the images that lose a rectangle.")
    mixup: float = option(0.7, "Parameter of mixup's beta distribution; 0 = off.")
    cutmix: float = option(1.0, "Parameter of CutMix's beta distribution; 0 = off.")
    mix_probability: float = option(0.9, "Share of the batches that are mixed.")
    cutmix_probability: float = option(0.5, "Share of those that CutMix takes.")
