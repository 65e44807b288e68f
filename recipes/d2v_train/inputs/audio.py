"""From a recording to the model's input: crop, speed, equaliser, normalisation."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel

from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.inputs.checks import _range
from d2v_train.inputs.joined_clips import JoinedClips
from d2v_train.support.extras import need


logger = logging.getLogger(__name__)

CROP_LENGTHS = 11
"""Number of different lengths of training crops, evenly spaced over their range."""


@dataclass
class AudioTransform:
    """Waveform to a tensor (S,), of mean 0 and variance 1 over the crop unless the front end takes loudness as it is.

    In training: optionally the clip followed by random others of the same speaker until `crop_seconds` are full, then
    a crop of random length and position. In evaluation: the clip as it is, at most `max_seconds` of its beginning.

    Attributes:
        min_samples: Shorter clips are padded with zeros after standardisation, and the zeros count as real; set by
            `build_transform` to the length of two frames of the model, the minimum that can be masked.
        crop_seconds: Shortest and longest crop in seconds, one number for both, or None to keep whole clips. A clip
            that is shorter than its crop stays whole.
        concat_group: Whether clips of one group are concatenated up to the crop length. Without it, single words
            are learned by their position in the window. Data without groups is cropped clip by clip, with a warning:
            changes of voice within a window would be a shortcut.
        speed: Slowest and fastest speed of a training clip or crop, or None for its own. Tempo and pitch change
            together, as with other speakers.
        equaliser: Standard deviation in decibels of the random gains that a training clip or crop gets at eight
            frequencies, as with other microphones; 0 = as recorded. Loudness is not kept, which matters only for clips
            that are not standardised.
        max_seconds: Longest clip in evaluation and without crops, in seconds; None = no limit.
        standardised: Whether each clip gets mean 0 and variance 1; without it, samples keep their range of -1 to 1.
            Set by `build_transform` to what the front end takes.
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

    @staticmethod
    def of_model(settings: Any, tokenizer: Any = None) -> dict[str, Any]:
        """Return the options that follow from the configuration of the modality."""
        return {
            "min_samples": settings.frame_width + settings.frame_stride,
            "standardised": settings.traits.standardised,
        }

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """Return the options that match a feature extractor.

        Raises:
            ValueError: If it expects another sampling rate.
        """
        if processor.sampling_rate != SAMPLING_RATE:
            raise ValueError(
                f"The encoder expects recordings of {processor.sampling_rate} Hz, but the data is read at "
                f"{SAMPLING_RATE} Hz."
            )
        return {"standardised": bool(processor.do_normalize)}

    def prepare(
        self, dataset: RawDataset, block: int | None = None, report: DataReport | None = None
    ) -> RawDataset | JoinedClips:
        """Return `dataset`, or with `concat_group` in training a `JoinedClips` of it.

        Args:
            dataset: Recordings. Without groups its clips are cropped one by one, with a warning.
            block: See `JoinedClips`.
            report: Not used: nothing is read.
        """
        if not (self.train and self.concat_group):
            return dataset
        if dataset.groups is None:
            logger.warning(
                "audio.transform.concat_group joins clips of one speaker, but the data %s has no column of speakers: "
                "each of its clips is cropped by itself. Name the column with audio.dataset.group_column (for a plain "
                "folder, a column of its metadata.csv), or set concat_group to false.",
                dataset.source,
            )
            return dataset
        return JoinedClips(dataset, block)

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"input_values": float32 (S,), "id"}; clips are joined if the record has "another"."""
        samples = record["audio"]
        rng = np.random.default_rng(seed)
        speed = rng.uniform(*self.speed) if self.train and self.speed is not None else 1.0
        if self.train and self.crop_seconds is not None:
            length = max(1, round(self._crop_length(rng) * speed))
            if self.concat_group and "another" in record:
                samples = _joined(samples, record["another"], length, rng)
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

        Few lengths, because convolution libraries prepare for each new shape, which takes a quarter of a small step.
        """
        least, greatest = self.crop_seconds
        seconds = least + (greatest - least) * rng.integers(CROP_LENGTHS) / (CROP_LENGTHS - 1)
        return round(seconds * SAMPLING_RATE)


def _joined(
    samples: np.ndarray, another: Callable[[np.random.Generator], np.ndarray], length: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a clip and random others of its group, concatenated.

    They exceed `length` by the first clip, so that the crop may start anywhere in it.
    """
    clips = [samples]
    total, wanted = len(samples), length + len(samples)
    while total < wanted:
        clips.append(another(rng))
        total += len(clips[-1])
    return np.concatenate(clips)


def standardise(samples: np.ndarray) -> np.ndarray:
    """Return (S,) float32 of mean 0 and variance 1; a constant signal becomes zeros.

    The epsilon is that of `Wav2Vec2FeatureExtractor`, which users of the exported model will run.
    """
    samples = samples.astype(np.float32)
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)


def _change_speed(samples: np.ndarray, speed: float) -> np.ndarray:
    """Return (round(S / speed),) samples: the recording played faster or slower."""
    length = max(1, round(len(samples) / speed))
    changed = need("soxr", "audio").resample(samples, SAMPLING_RATE * speed, SAMPLING_RATE, quality="MQ")[:length]
    return np.pad(changed, (0, length - len(changed)))


KNOTS = 8
"""Number of frequencies with a gain of their own: few, so that vowels stay recognisable."""


class Equaliser:
    """A smooth random gain curve over the spectrum of a recording.

    The curve is linear in decibels between `KNOTS` independent normal gains, which are evenly spaced on the mel scale
    from 0 Hz to half the sampling rate.

    Args:
        decibels: Standard deviation of the gains.
    """

    def __init__(self, decibels: float):
        self.decibels = decibels

    def __call__(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the filtered recording (S,) as float32 (S,)."""
        hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLING_RATE)
        knots = np.linspace(0.0, hertz_to_mel(SAMPLING_RATE / 2, "htk"), KNOTS)
        gains = rng.normal(0.0, self.decibels, KNOTS)
        curve = 10 ** (np.interp(hertz_to_mel(hertz, "htk"), knots, gains) / 20)
        return np.fft.irfft(np.fft.rfft(samples) * curve, len(samples)).astype(np.float32)
