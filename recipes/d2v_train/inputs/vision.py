"""Transform of an image into the model's input: crop, flip, colours, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.inputs.checks import _range
from d2v_train.support.extras import need


@dataclass
class VisionTransform:
    """Image to a normalised tensor (C, H, W).

    In training: a random crop of a share `crop_scale` of the image's area, resized to the model's size, and flipped
    horizontally half of the time. Without `crop_scale`, and in evaluation: the image resized by its shorter side and
    cropped at the centre, like the image processor of the exported model. An image of the right size is not resized.

    Attributes:
        image_size: Height and width to produce.
        num_channels: 3 for RGB, 1 for grey.
        crop_scale: Smallest and largest share of the area of a training crop, or None for no random crop.
        crop_aspect: Smallest and largest width-to-height ratio of a training crop.
        flip: Whether training images are flipped at random. Off by default: it changes the meaning of digits.
        color_jitter: Brightness, contrast and saturation of a training crop vary by up to this share, 0 to 1.
        mean: Subtracted, per channel or one number, of values in [0, 1].
        std: Divided by, after that, per channel or one number.
        train: Whether to augment.
        value_range: That of the prepared dataset, for the image processor; not an option.
    """

    image_size: int
    num_channels: int = 3
    crop_scale: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    color_jitter: float = 0.0
    mean: float | Sequence[float] = 0.5
    std: float | Sequence[float] = 0.5
    train: bool = True

    def __post_init__(self):
        self.value_range: list[float] | None = None
        if self.crop_scale is not None:
            self.crop_scale = _range("crop_scale", self.crop_scale, 0.0, 1.0)
        self.crop_aspect = _range("crop_aspect", self.crop_aspect, 0.0, float("inf"))
        self._jitter = ColorJitter(self.color_jitter)
        self._mean = self._per_channel("mean", self.mean)
        self._std = self._per_channel("std", self.std)
        if (self._std <= 0).any():
            raise ValueError(f"Vision option std is {self.std}; it must be positive.")

    @staticmethod
    def of_model(settings: Any, tokenizer: Any = None) -> dict[str, Any]:
        """Return the options that follow from the configuration of the modality."""
        return {"image_size": settings.image_size, "num_channels": settings.num_channels}

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """Return the options that match the normalisation of an image processor."""
        if not getattr(processor, "do_normalize", True):
            return {"mean": 0.0, "std": 1.0}
        return {"mean": list(processor.image_mean), "std": list(processor.image_std)}

    def prepare(self, dataset: RawDataset, block: int | None = None, report: DataReport | None = None) -> RawDataset:
        """Return `dataset` itself: images are transformed one by one, neither `block` nor `report` is used.

        Its `value_range` becomes that of the exported image processor; of several sources, that of the last.
        """
        self.value_range = dataset.settings.value_range
        return dataset

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"pixel_values": float32 (C, H, W), "id"}."""
        pixels = self.normalised(self.cropped(record["image"], np.random.default_rng(seed)))
        return {"pixel_values": torch.from_numpy(pixels), "id": record["id"]}

    def cropped(self, image: Any, rng: np.random.Generator) -> Any:
        """Return a PIL image of the model's size and channels."""
        pillow = need("PIL.Image", "vision")
        image = image.convert("L" if self.num_channels == 1 else "RGB")
        size, bicubic = (self.image_size, self.image_size), pillow.Resampling.BICUBIC
        if self.train and self.crop_scale is not None:
            image = image.resize(size, bicubic, box=self._crop_box(image.size, rng))
        elif image.size != size:
            image = _centre_square(image, self.image_size, bicubic)
        if self.train and self.flip and rng.random() < 0.5:
            image = image.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        if self.train and self.color_jitter:
            image = self._jitter(image, rng)
        return image

    def normalised(self, image: Any) -> np.ndarray:
        """Return the normalised pixels of a PIL image as float32 (C, H, W)."""
        pixels = np.asarray(image, dtype=np.float32).reshape(*image.size[::-1], self.num_channels).transpose(2, 0, 1)
        return np.ascontiguousarray((pixels / 255.0 - self._mean) / self._std)

    def _crop_box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return (left, upper, right, lower) of a random crop, or of the whole image if no draw fits."""
        width, height = size
        for _ in range(10):
            area = width * height * rng.uniform(*self.crop_scale)
            aspect = np.exp(rng.uniform(*np.log(self.crop_aspect)))
            crop_width, crop_height = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(rng.integers(width - crop_width + 1))
                upper = int(rng.integers(height - crop_height + 1))
                return left, upper, left + crop_width, upper + crop_height
        return 0, 0, width, height

    def _per_channel(self, name: str, value: float | Sequence[float]) -> np.ndarray:
        values = np.atleast_1d(np.asarray(value, dtype=np.float32))
        if values.size not in (1, self.num_channels):
            raise ValueError(
                f"Vision option {name} has {values.size} numbers; give 1 or {self.num_channels}, one per channel."
            )
        return values[:, None, None]


def _centre_square(image: Any, side: int, resample: int) -> Any:
    """Return the centre (side, side) of a PIL image whose shorter side was resized to `side`.

    The longer side and the corner are rounded down, as in the image processors of transformers.
    """
    width, height = (side * length // min(image.size) for length in image.size)
    left, upper = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), resample).crop((left, upper, left + side, upper + side))


class ColorJitter:
    """Random brightness, contrast and saturation, each by a factor from 1 - strength to 1 + strength, in random order.

    Args:
        strength: Strength, from 0 to 1.

    Raises:
        ValueError: If `strength` is out of range.
    """

    def __init__(self, strength: float) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"The strength of the colour jitter is {strength}; it must be in [0, 1].")
        self.strength = strength

    def __call__(self, image: Any, rng: np.random.Generator) -> Any:
        enhance = need("PIL.ImageEnhance", "vision")
        for kind in rng.permutation(["Brightness", "Contrast", "Color"]):
            factor = 1 + rng.uniform(-self.strength, self.strength)
            image = getattr(enhance, kind)(image).enhance(factor)
        return image
