"""From a record to the model's input: crops, flips, standardisation, tokens.

`transform(record, seed)` is a pure function: all that is random comes from a NumPy generator seeded by `seed`, so a
sample is the same whichever worker prepares it. `transform.prepare(dataset)` returns the data set to draw records
from, after the transform took from it what it needs: clips of the same speaker, or documents packed into blocks.

Legend: C channels, H height, W width, S waveform samples, T tokens.
"""

import dataclasses
import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .color_jitter import ColorJitter
from .datasets import SAMPLING_RATE, RawDataset
from .equaliser import Equaliser
from .optional import need
from .packing import PackedTextDataset


__all__ = ["AudioTransform", "TextTransform", "VisionTransform", "build_transform"]

logger = logging.getLogger(__name__)

CROP_LENGTHS = 11
"""Lengths of training crops, evenly spaced over their range."""


@dataclass
class VisionTransform:
    """Image to a normalised tensor (C, H, W).

    In training: a random part of the image, of a share `crop_scale` of its area, resized to the model's size, and
    flipped left to right half of the time. Without `crop_scale`, and in evaluation: the image resized so that its
    shorter side fits, and its centre cut out, as the image processor of the exported model does. An image that already
    has the size is taken as it is.

    Attributes:
        image_size: Height and width to produce.
        num_channels: 3 for RGB, 1 for grey.
        crop_scale: Least and greatest share of the area of a training crop, or None for no random crop.
        crop_aspect: Least and greatest width-to-height ratio of a training crop.
        flip: Whether training images are flipped at random. Off by default: it changes the meaning of digits.
        color_jitter: Brightness, contrast and saturation of a training crop vary by up to this share, 0 to 1.
        mean: Subtracted, per channel or one number, of values in [0, 1].
        std: Divided by, likewise.
        train: Whether to augment.
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
        if self.crop_scale is not None:
            self.crop_scale = _range("crop_scale", self.crop_scale, 0.0, 1.0)
        self.crop_aspect = _range("crop_aspect", self.crop_aspect, 0.0, float("inf"))
        self._jitter = ColorJitter(self.color_jitter)
        self._mean = self._per_channel("mean", self.mean)
        self._std = self._per_channel("std", self.std)
        if (self._std <= 0).any():
            raise ValueError(f"Vision option std is {self.std}; it must be positive.")

    def prepare(self, dataset: RawDataset) -> RawDataset:
        """Return `dataset` itself: images need nothing from one another."""
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
        """Return the pixels of a picture as float32 (C, H, W)."""
        pixels = np.asarray(image, dtype=np.float32).reshape(*image.size[::-1], self.num_channels).transpose(2, 0, 1)
        return np.ascontiguousarray((pixels / 255.0 - self._mean) / self._std)

    def _crop_box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return (left, upper, right, lower) of a random crop; of the whole image if no draw fits."""
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
            raise ValueError(f"Vision option {name} has {values.size} numbers for {self.num_channels} channels.")
        return values[:, None, None]


@dataclass
class AudioTransform:
    """Waveform to a standardised tensor (S,), mean 0 and variance 1 over the crop.

    In training: optionally the clip followed by random others of the same speaker until `crop_seconds` are full, then
    a crop of random length and place. In evaluation: the clip as it is, at most `max_seconds` of its beginning.

    Attributes:
        min_samples: Shorter clips are filled up with zeros after standardisation, and the zeros count as real; set by
            `build_transform` to what two frames of the model need, the least that can be masked.
        crop_seconds: Shortest and longest crop in seconds, one number for both, or None to keep whole clips. A clip
            that is shorter than its crop stays whole.
        concat_group: Whether clips of one group are concatenated up to the crop length. Without it, a set of single
            words teaches where in the window things are instead of what they are. Data that does not tell the groups
            is cropped without it, with a warning: voices that change within a window would be a giveaway.
        speed: Slowest and fastest speed of a training clip or crop, or None for its own: tempo and pitch change
            together, as if more people spoke.
        equaliser: Standard deviation in decibels of the random gains that a training clip or crop gets at eight
            frequencies, as if each came from another microphone; 0 = as recorded. Loudness is not kept, which only
            tells where clips are not standardised.
        max_seconds: Longest clip in evaluation and without crops, in seconds; None = no limit.
        standardised: Whether each clip gets mean 0 and variance 1; without it, samples keep their range of -1 to 1.
        train: Whether to augment.
    """

    min_samples: int = 400
    crop_seconds: tuple[float, float] | None = None
    concat_group: bool = False
    speed: tuple[float, float] | None = None
    equaliser: float = 0.0
    max_seconds: float | None = None
    standardised: bool = True
    train: bool = True

    def __post_init__(self):
        if self.speed is not None:
            self.speed = _range("speed", self.speed, 0.0, float("inf"))
        self._equalise = Equaliser(self.equaliser)
        if self.crop_seconds is not None:
            self.crop_seconds = _range("crop_seconds", self.crop_seconds, 0.0, float("inf"))
        elif self.concat_group:
            raise ValueError("Audio option concat_group needs crop_seconds: clips are concatenated up to that length.")
        self._dataset: RawDataset | None = None
        self._members: dict[str, np.ndarray] = {}
        self._block: int | None = None
        self.concatenates = self.train and self.concat_group

    def prepare(self, dataset: RawDataset, block: int | None = None) -> RawDataset:
        """Index the groups of `dataset`, where clips are to be concatenated.

        Without groups, clips are cropped one by one, and a warning says so.

        Args:
            dataset: Recordings.
            block: Join a clip only with others of its block of so many consecutive ones: a stream has no more at hand.
        """
        self._block = block
        self.concatenates = self.train and self.concat_group and dataset.groups is not None
        if self.train and self.concat_group and dataset.groups is None:
            logger.warning(
                "audio.transform.concat_group joins clips of one speaker, but nothing in the data %s tells the "
                "speaker: each of its clips is cropped by itself. Name the column of the speaker with "
                "audio.dataset.group_column (for a plain folder, a column of its metadata.csv), or set concat_group "
                "to false.",
                dataset.source,
            )
        if self.concatenates:
            groups = np.array(dataset.groups)
            order = np.argsort(groups, kind="stable")
            names, starts = np.unique(groups[order], return_index=True)
            parts = np.split(order, starts[1:])
            self._members = dict(zip(names.tolist(), parts, strict=True))
            self._dataset = dataset
        return dataset

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"input_values": float32 (S,), "id"}.

        Raises:
            ValueError: If clips are to be concatenated and `prepare` was not called.
        """
        samples = record["audio"]
        rng = np.random.default_rng(seed)
        speed = rng.uniform(*self.speed) if self.train and self.speed is not None else 1.0
        if self.train and self.crop_seconds is not None:
            length = max(1, round(self._crop_length(rng) * speed))
            if self.concatenates:
                samples = self._concatenate(record, length, rng)
            start = int(rng.integers(max(0, len(samples) - length) + 1))
            samples = samples[start : start + length]
        elif self.max_seconds is not None:
            samples = samples[: round(self.max_seconds * SAMPLING_RATE * speed)]
        if speed != 1.0:
            samples = _change_speed(samples, speed)
        if self.train and self.equaliser:
            samples = self._equalise(samples, rng)
        samples = standardise(samples) if self.standardised else samples.astype(np.float32)
        if len(samples) < self.min_samples:
            samples = np.pad(samples, (0, self.min_samples - len(samples)))
        return {"input_values": torch.from_numpy(samples), "id": record["id"]}

    def _crop_length(self, rng: np.random.Generator) -> int:
        """Return a random length in samples, one of `CROP_LENGTHS`.

        A shape that comes back costs a convolution library nothing; preparing for a new one takes a quarter of a small
        step.
        """
        least, greatest = self.crop_seconds
        seconds = least + (greatest - least) * rng.integers(CROP_LENGTHS) / (CROP_LENGTHS - 1)
        return round(seconds * SAMPLING_RATE)

    def _concatenate(self, record: dict[str, Any], length: int, rng: np.random.Generator) -> np.ndarray:
        """Return the record's clip and random others of its group, with at least one clip more than `length` needs.

        The one more lets the crop start anywhere in the first clip.
        """
        if self._dataset is None:
            raise ValueError("Call transform.prepare(dataset) first: clips of the same speaker are taken from there.")
        members = self._members[record["group"]]
        if self._block is not None:
            first = record.get("place", record["id"]) // self._block * self._block
            near = members[slice(*np.searchsorted(members, [first, first + self._block]))]
            members = near if len(near) else members  # the substitute of a bad clip may be of a neighbouring block
        clips = [record["audio"]]
        total, wanted = len(clips[0]), length + len(clips[0])
        while total < wanted:
            clip = self._dataset[int(members[rng.integers(len(members))])]["audio"]
            clips.append(clip)
            total += len(clip)
        return np.concatenate(clips)


@dataclass
class TextTransform:
    """Text to token ids (T,): <s> text </s>, or <s> text </s></s> text pair </s>, cut to `max_length`.

    In training with `pack`, `prepare` returns blocks of exactly `max_length` tokens, which pass through unchanged.

    Attributes:
        tokenizer: Of `build_tokenizer` or `load_tokenizer`.
        max_length: Tokens, special ones included.
        pack: Whether training documents are joined and cut into blocks.
        cache_dir: Folder that keeps packed tokens between runs; None keeps them in memory only.
        train: Whether `prepare` packs.
    """

    tokenizer: Any
    max_length: int = 512
    pack: bool = True
    cache_dir: str | None = None
    train: bool = True

    def prepare(self, dataset: RawDataset) -> "RawDataset | PackedTextDataset":
        """Return the blocks that `dataset` packs into, or in evaluation `dataset` itself."""
        if self.train and self.pack:
            return PackedTextDataset(dataset, self.tokenizer, self.max_length, cache_dir=self.cache_dir)
        return dataset

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"input_ids": int64 (T,), "id"}."""
        ids = record.get("input_ids")
        if ids is None:
            encoded = self.tokenizer(
                record["text"], record.get("text_pair"), truncation=True, max_length=self.max_length
            )
            ids = encoded["input_ids"]
        return {"input_ids": torch.as_tensor(np.asarray(ids, dtype=np.int64)), "id": record["id"]}


def standardise(samples: np.ndarray) -> np.ndarray:
    """Return (S,) float32 of mean 0 and variance 1; a constant signal becomes zeros.

    The small number under the root is that of `Wav2Vec2FeatureExtractor`, which users of the exported model will run.
    """
    samples = samples.astype(np.float32)
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


def _change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return (round(S / speed),) samples: the recording played faster or slower."""
    length = max(1, round(len(samples) / speed))
    changed = need("soxr", "audio").resample(samples, SAMPLING_RATE * speed, SAMPLING_RATE, quality="MQ")[:length]
    return np.pad(changed, (0, length - len(changed)))


def build_transform(
    modality: str, options: dict[str, Any] | None, model_config: Any, tokenizer: Any = None, train: bool = True
) -> VisionTransform | AudioTransform | TextTransform:
    """Build the transform of a modality.

    Args:
        modality: "text", "vision" or "audio".
        options: Attributes of `VisionTransform`, `AudioTransform` or `TextTransform`; what is not given follows from
            `model_config` (image size, channels, shortest waveform, longest text).
        model_config: `Data2VecConfig`.
        tokenizer: For text.
        train: Whether to augment and pack.

    Raises:
        ValueError: If an option is unknown or wrong, or text has no tokenizer.
    """
    config = model_config.modality_config(modality)
    if modality == "vision":
        kind, given = VisionTransform, {"image_size": config.image_size, "num_channels": config.num_channels}
    elif modality == "audio":
        kind, given = AudioTransform, {"min_samples": config.frame_width + config.frame_stride}
    else:
        if tokenizer is None:
            raise ValueError("The text transform needs a tokenizer; see `build_tokenizer` and `load_tokenizer`.")
        kind, given = TextTransform, {"tokenizer": tokenizer, "max_length": config.max_position_embeddings}
    valid = [field.name for field in dataclasses.fields(kind) if field.name not in ("train", "tokenizer")]
    for name in options or {}:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Valid: {', '.join(valid)}."
            raise ValueError(f"The {modality} transform has no option {name!r}. {hint}")
    for name, value in (options or {}).items():
        _check_kind(modality, name, value)
    return kind(**(given | dict(options or {}) | {"train": train}))


def _check_kind(modality: str, name: str, value: Any) -> None:
    """Refuse a value that is no switch or no number where the option is one; ranges are checked elsewhere."""
    if name in ("flip", "concat_group", "pack", "standardised"):
        fits, kind = isinstance(value, bool), "true or false"
    elif name in ("image_size", "num_channels", "min_samples", "max_length"):
        fits, kind = isinstance(value, int) and not isinstance(value, bool) and value > 0, "a whole number above 0"
    elif name == "max_seconds":
        fits, kind = value is None or (isinstance(value, int | float) and value > 0), "a number above 0"
    elif name == "equaliser":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        # Far more than any microphone: what overflowed would be counted as a damaged recording.
        fits, kind = number and 0 <= value <= 60, "a number of decibels from 0 to 60"
    elif name == "color_jitter":
        fits, kind = isinstance(value, int | float) and 0 <= value <= 1, "a number from 0 to 1"
    else:
        return
    if not fits:
        raise ValueError(f"The {modality} transform option {name} is {value!r}; it must be {kind}.")


def _range(name: str, value: float | Sequence[float], low: float, high: float) -> tuple[float, float]:
    """Return `value` as (least, greatest), both in (low, high]."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    numbers = all(isinstance(number, int | float) and not isinstance(number, bool) for number in pair)
    if len(pair) != 2 or not numbers or not low < pair[0] <= pair[1] <= high:
        upper = "" if high == float("inf") else f" and up to {high:g}"
        raise ValueError(f"Option {name} is {value}; it must be a number or two ascending ones, above {low:g}{upper}.")
    return float(pair[0]), float(pair[1])


def _centre_square(image: Any, side: int, resample: int) -> Any:
    """Return the centre (side, side) of a PIL image whose shorter side was resized to `side`.

    The longer side and the corner are rounded down, as the image processors of transformers round them.
    """
    width, height = (side * length // min(image.size) for length in image.size)
    left, upper = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), resample).crop((left, upper, left + side, upper + side))
