"""From an array to the model's input: crop, standardisation, jitter, scaling.

Legend: C channels, n dimensions without the channels.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport


logger = logging.getLogger(__name__)

FITTED_ON = 1000
"""Largest number of samples from which mean and standard deviation are computed, evenly spaced over the data."""
FITTED_PLACES = 2**16
"""Largest number of places of a sample that are read for them, from its middle."""


@dataclass
class ArrayTransform:
    """Array (sides ..., C) to a tensor of the same layout, each channel standardised by the training data.

    Mean and standard deviation are those of the training data, not of each sample: levels and amplitudes, in the
    units of a sensor, differ between samples for a reason, and one sample may hold too little to estimate them. They
    are computed once, when a run starts, and saved with the model.

    In training: a random crop, then scaling and jitter if they are set. In evaluation: the crop at the centre.

    Attributes:
        num_channels: Channels of an array; set by `build_transform` to those of the model.
        num_dims: Dimensions of an array without its channels; set by `build_transform` to those of the model.
        min_length: Shorter series are padded with zeros after standardisation, and the zeros count as real; set by
            `build_transform` to two tokens of the model, the minimum that can be masked.
        crop_length: Length of the crop; of arrays of several dimensions one for each, or one for all. A series that is
            shorter stays whole; an array of several dimensions that is smaller is a bad sample, as all must have one
            shape. null keeps series whole, and takes the shape of the first training sample for other arrays.
        mean: Mean of each channel, or one for all; null computes those of the training data.
        std: Standard deviation of each channel, or one for all; null computes those of the training data.
        jitter: Standard deviation of the noise that a training sample gets, in units of the standardised values; 0
            adds none.
        scaling: Standard deviation of the logarithm of the random factor of each channel of a training sample; 0 keeps
            amplitudes.
        sampling_rate: Places per second of a series, for pictures and the saved processor; null if unknown.
        train: Whether to augment.
    """

    num_channels: int = 1
    num_dims: int = 1
    min_length: int = 1
    crop_length: int | list[int] | None = None
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    jitter: float = 0.0
    scaling: float = 0.0
    sampling_rate: float | None = None
    train: bool = True

    def __post_init__(self):
        if self.crop_length is not None:
            self.crop_length = self._sides(self.crop_length)
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                setattr(self, name, self._of_channels(name, getattr(self, name)))
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"Array option std is {self.std}; it must be above 0 for every channel.")
        for name in ("jitter", "scaling"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 10:
                raise ValueError(f"Array option {name} is {value!r}; it must be a number from 0 to 10.")
        if self.sampling_rate is not None and not (_is_number(self.sampling_rate) and self.sampling_rate > 0):
            raise ValueError(f"Array option sampling_rate is {self.sampling_rate!r}; it must be a number above 0.")

    @staticmethod
    def of_model(settings: Any, tokenizer: Any = None) -> dict[str, Any]:
        """Return the options that follow from the configuration of the modality."""
        return {
            "num_channels": settings.num_channels,
            "num_dims": settings.num_dims,
            "min_length": 2 * settings.group_size,
        }

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """Return the options that match a feature extractor."""
        names = ("mean", "std", "crop_length", "sampling_rate")
        found = {name: getattr(processor, name, None) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def fit(self, datasets: Sequence[RawDataset], label: str = "arrays") -> None:
        """Compute what is not given from training data: mean, standard deviation, and the crop of several dimensions.

        Args:
            datasets: Raw data of the run.
            label: Name of the data, for messages.

        Raises:
            NoUsableSample: If no sample can be read.
        """
        if self.crop_length is None and self.num_dims > 1:
            self.crop_length = list(datasets[0].read(0, DataReport())["array"].shape[:-1])
            logger.info("The crop of %s is the shape of the first sample: %s.", label, self.crop_length)
        if self.mean is not None and self.std is not None:
            return
        count, total, squares = 0, np.zeros(self.num_channels), np.zeros(self.num_channels)
        shift = None
        size = sum(map(len, datasets))
        for dataset in datasets:
            most = max(1, round(FITTED_ON * len(dataset) / size))
            for index in np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int)):
                array = dataset.read(int(index), DataReport())["array"]  # bad ones are reported when they are drawn
                rows = _middle(array.reshape(-1, array.shape[-1]), FITTED_PLACES).astype(np.float64)
                # Around a common value, so that large offsets do not cancel digits of the variance.
                shift = rows.mean(axis=0) if shift is None else shift
                count += len(rows)
                total += (rows - shift).sum(axis=0)
                squares += np.square(rows - shift).sum(axis=0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        constant = deviation <= 1e-7 * np.maximum(np.abs(mean + shift), 1e-7)  # the precision of float32
        if constant.any():
            channels = ", ".join(map(str, np.flatnonzero(constant)[:8]))
            logger.warning("Channels %s of %s are constant; they are centred but not scaled.", channels, label)
        deviation[constant] = 1.0
        self.mean = [float(f"{value:.9g}") for value in mean + shift] if self.mean is None else self.mean
        self.std = [float(f"{value:.9g}") for value in deviation] if self.std is None else self.std

    def prepare(self, dataset: RawDataset, block: int | None = None, report: DataReport | None = None) -> RawDataset:
        """Return `dataset`: arrays are drawn one by one."""
        return dataset

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"array_values": float32 (sides ..., C), "id"}.

        Raises:
            BadSample: If an array of several dimensions is smaller than the crop, or numbers are not finite.
        """
        rng = np.random.default_rng(seed)
        array = self._cropped(record["array"], rng).astype(np.float32)
        if self.mean is not None:
            array -= np.asarray(self.mean, dtype=np.float32)
        if self.std is not None:
            array /= np.asarray(self.std, dtype=np.float32)
        if self.train and self.scaling:
            array *= rng.lognormal(0.0, self.scaling, self.num_channels).astype(np.float32)
        if self.train and self.jitter:
            array += rng.normal(0.0, self.jitter, array.shape).astype(np.float32)
        if self.num_dims == 1 and len(array) < self.min_length:
            array = np.pad(array, ((0, self.min_length - len(array)), (0, 0)))
        return {"array_values": torch.from_numpy(np.ascontiguousarray(array)), "id": record["id"]}

    def length_after(self, lengths: np.ndarray) -> np.ndarray:
        """Return the lengths of series (N,) after the transform, from those before it (-1 = unknown)."""
        found = np.where(lengths < 0, lengths.max(initial=1), lengths)
        if self.crop_length is not None:
            found = np.minimum(found, self.crop_length[0])
        return np.maximum(found, self.min_length)

    def evaluation(self) -> ArrayTransform:
        """Return the transform of evaluation with the same crop and standardisation."""
        return dataclasses.replace(self, train=False)

    def _cropped(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the crop of an array, at random in training, else at the centre."""
        if self.crop_length is None:
            return array
        for axis, length in enumerate(self.crop_length):
            spare = array.shape[axis] - length
            if spare < 0 and self.num_dims > 1:
                raise BadSample("wrong shape", f"{array.shape[:-1]} is smaller than the crop {self.crop_length}")
            if spare > 0:
                start = int(rng.integers(spare + 1)) if self.train else spare // 2
                array = array[(slice(None),) * axis + (slice(start, start + length),)]
        return array

    def _sides(self, value: Any) -> list[int]:
        sides = list(value) if isinstance(value, list | tuple) else [value] * self.num_dims
        whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
        if not whole or len(sides) != self.num_dims:
            raise ValueError(
                f"Array option crop_length is {value!r}; it must be a whole number above 0, or {self.num_dims} "
                f"of them for arrays of {self.num_dims} dimensions."
            )
        return sides

    def _of_channels(self, name: str, value: Any) -> list[float]:
        numbers = list(value) if isinstance(value, list | tuple) else [value] * self.num_channels
        if len(numbers) != self.num_channels or not all(map(_is_number, numbers)):
            raise ValueError(
                f"Array option {name} is {value!r}; it must be a number, or {self.num_channels} of them for "
                f"{self.num_channels} channels."
            )
        return [float(number) for number in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _middle(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows around the middle."""
    start = max(0, (len(rows) - most) // 2)
    return rows[start : start + most]
