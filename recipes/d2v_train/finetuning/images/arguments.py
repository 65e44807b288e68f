"""Options for images: data, augmentation, settings of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from d2v_train.finetuning.arguments import (
    ClassArguments,
    FinetuningArguments,
    MediaDataArguments,
    check_share,
    option,
    with_defaults,
)
from d2v_train.options.errors import OptionError, at_least, share


@dataclass
class ImageDataArguments(ClassArguments, MediaDataArguments):
    """Images for training, evaluation and prediction."""

    smooths_flags = True  # by the collator
    modality = "vision"
    input_column = "image_column"
    decoding = ("value_range", "max_pixels")

    image_column: str | None = option(None, "Column of the images; default: found by its type.")
    image_size: int | None = option(None, "Pixels per side, a multiple of the patch size; default: as in pretraining.")
    crop_pct: float | None = option(
        None, "Share of the shorter side of the evaluation crop; default: 0.875, or 1 up to 32 and above 224 pixels."
    )

    value_range: list[float] | None = option(
        None, "Values that become black and white in images of more than 8 bits; default: as in pretraining."
    )
    max_pixels: int = option(100_000_000, "Most pixels of an image; larger JPEGs are decoded at a smaller size.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--image_size", self.image_size, 1)
        if self.crop_pct is not None:
            check_share("crop_pct", self.crop_pct, whole=True)


@dataclass
class AugmentationArguments:
    """Augmentation of training images. The defaults are those of the published fine-tuning."""

    title: ClassVar[str] = "augmentation"

    crop_scale: list[float] = option([0.08, 1.0], "Minimum and maximum area of a crop, as a share of the image.")
    crop_ratio: list[float] = option([3 / 4, 4 / 3], "Minimum and maximum ratio of width to height of a crop.")
    flip: bool = option(True, "Flip half of the images horizontally; turn it off for digits.")
    color_jitter: float = option(0.0, "Strength of brightness, contrast and saturation jitter, up to 1; 0 = off.")
    randaugment_operations: int = option(2, "Number of RandAugment operations per image; 0 = off.")
    randaugment_magnitude: float = option(9.0, "Mean magnitude of RandAugment, 0 to 10.")
    randaugment_std: float = option(0.5, "Standard deviation of the magnitude.")
    random_erasing: float = option(0.25, "Probability of erasing a random rectangle of an image.")
    mixup: float = option(0.7, "Parameter of the beta distribution of mixup; 0 = off.")
    cutmix: float = option(1.0, "Parameter of the beta distribution of CutMix; 0 = off.")
    mix_probability: float = option(0.9, "Probability of mixing a batch.")
    cutmix_probability: float = option(0.5, "Probability of CutMix instead of mixup in a mixed batch.")

    def __post_init__(self) -> None:
        for name, most in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            values = getattr(self, name)
            if len(values) != 2 or not 0 < values[0] <= values[1] <= most or values[1] == math.inf:
                shown = " ".join(map(str, values))
                limit = " and at most 1" if most == 1 else ""
                raise OptionError(f"--{name} is {shown}. It takes two numbers above 0{limit}, the smaller one first.")
        for name in ("color_jitter", "random_erasing", "mix_probability", "cutmix_probability"):
            share(f"--{name}", getattr(self, name))
        for name in ("randaugment_operations", "randaugment_std", "mixup", "cutmix"):
            at_least(f"--{name}", getattr(self, name), 0)
        if not 0 <= self.randaugment_magnitude <= 10:
            raise OptionError(f"--randaugment_magnitude is {self.randaugment_magnitude}. It must be from 0 to 10.")


@with_defaults(
    num_train_epochs=100.0,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=64,
    warmup_steps=0.064,
    lr_scheduler_type="cosine",
    adam_beta2=0.95,
    weight_decay=0.05,
    max_grad_norm=0.0,
    layer_decay=0.65,
    label_smoothing_factor=0.1,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    remove_unused_columns=False,
)
class ImageFinetuningArguments(FinetuningArguments):
    """Training options with the published settings of data2vec 2.0, base, as defaults."""

    main_metric = "accuracy"

    learning_rate: float = option(1e-3, "Peak learning rate, for 512 images per update.")
    drop_path_rate: float = option(0.1, "Stochastic depth rate of the last block.")

    def __post_init__(self) -> None:
        share("--drop_path_rate", self.drop_path_rate, below=True)
        if not self.do_train or not self.do_eval:
            self.eval_strategy = "no"
        super().__post_init__()
