"""Number of tokens of every sample without decoding it, for sorting and token budgets.

Lengths of recordings come from their headers or from a column. A crop of random length counts with its greatest
length, so that a budget is never exceeded.
"""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import WeakFileLock
from tqdm.auto import tqdm

from d2v_train.data.arrays import array_shape
from d2v_train.data.audio_headers import hides_samples
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.inputs.arrays import ArrayTransform
from d2v_train.inputs.audio import AudioTransform
from d2v_train.inputs.byte_tokens import tokenizer_rules
from d2v_train.inputs.joined_clips import JoinedClips
from d2v_train.inputs.packing import DOCUMENTS_AT_ONCE, PackedTextDataset
from d2v_train.inputs.text import TextTransform
from d2v_train.support.atomic import write_file
from d2v_train.support.extras import need


logger = logging.getLogger(__name__)

HEADER_THREADS = 8
KEPT_FROM = 1000
"""Least number of samples for storing lengths between runs."""


def token_lengths(dataset: Any, transform: Any, config: Any, report: DataReport | None = None) -> np.ndarray:
    """Return the tokens of each sample after its transform, (N,) int64, at least 1; the most for random crops.

    Args:
        dataset: Result of `transform.prepare`.
        transform: Transform of the source.
        config: `Data2VecConfig`.
        report: Receives documents that cannot be read; None logs them instead.

    Raises:
        ValueError: The samples all have the same size, as images have.
    """
    if isinstance(transform, AudioTransform):
        joined = isinstance(dataset, JoinedClips)
        samples = _after_transform(sample_counts(dataset.dataset if joined else dataset), transform, joined)
        return np.maximum(config.audio_config.num_tokens(torch.from_numpy(samples)).numpy(), 1)
    if isinstance(transform, ArrayTransform) and transform.num_dims == 1:
        lengths = transform.length_after(series_lengths(dataset))
        return np.asarray(config.arrays_config.num_tokens(torch.from_numpy(lengths)))
    if isinstance(dataset, PackedTextDataset):
        bytes_or_tokens = np.full(len(dataset), min(dataset.block_size, len(dataset.tokens) + dataset.special))
        return _tokens_of_ids(bytes_or_tokens, config)
    if isinstance(transform, TextTransform):
        rules = tokenizer_rules(transform.tokenizer)
        length_of = partial(_text_lengths, transform=transform, report=report)
        lengths = _kept(dataset, f"{transform.max_length} {rules}", length_of)
        return _tokens_of_ids(lengths, config)
    raise ValueError(
        "Images and arrays of several dimensions all have one size: there is no token budget. Set batch_size."
    )


def _tokens_of_ids(lengths: np.ndarray, config: Any) -> np.ndarray:
    """Return the tokens of texts of so many ids: of bytes, groups; without a configuration, the ids."""
    return lengths if config is None else config.modality_config("text").num_tokens(lengths)


def _after_transform(samples: np.ndarray, transform: AudioTransform, joined: bool) -> np.ndarray:
    """Return the samples that the model gets at most, from those of the recordings (-1 = unknown)."""
    slowest = 1.0 if transform.speed is None else transform.speed[0]
    longest = np.ceil(samples / slowest)
    unknown = samples < 0
    most = None
    if transform.crop_seconds is not None:
        most = round(transform.crop_seconds[1] * SAMPLING_RATE)
    elif transform.max_seconds is not None:
        most = round(transform.max_seconds * SAMPLING_RATE)
    if most is not None:
        longest = np.minimum(longest, most)
        if joined:
            longest[:] = most
    longest[unknown] = longest.max() if most is None else most
    return np.maximum(longest, transform.min_samples).astype(np.int64)


def array_shapes(dataset: RawDataset) -> list[tuple[int, ...]]:
    """Return the shape (sides ..., channels) of each array, from the headers of files; (-1,) for a bad one."""
    found = []
    for row in dataset.rows:
        try:
            shape = array_shape(dataset.table.values[int(row)], dataset.settings)
        except (BadSample, OSError):  # the decoder will raise the error again
            shape = None
        found.append((-1,) if shape is None else shape)
    return found


def series_lengths(dataset: RawDataset) -> np.ndarray:
    """Return the length of each series, (N,) int64, from the headers of files; -1 for a bad one."""

    def find(data: RawDataset) -> np.ndarray:
        return np.array([shape[0] for shape in array_shapes(data)], dtype=np.int64)

    settings = dataset.settings
    return _kept(dataset, f"series {settings.num_dims} {settings.num_channels} {settings.channels_first}", find)


def sample_counts(dataset: RawDataset) -> np.ndarray:
    """Return the samples at 16 kHz of each recording, (N,) int64, -1 where the header cannot be read.

    A bad recording is replaced by another one, whose length is unknown here.
    """
    if dataset.lengths is not None:
        return dataset.lengths
    if dataset.table.values.is_remote:
        raise ValueError(
            f"The lengths of the recordings of {dataset.source} could only be found by downloading all of them. Set "
            "length_column to a column with the lengths, or do not use batch_tokens, micro_batch_tokens and "
            "bucket_steps."
        )
    return _kept(dataset, "samples", _samples_in_headers)


def header_seconds(dataset: RawDataset) -> np.ndarray:
    """Return the length of each recording in seconds, (N,) float64, from its header; NaN where that cannot be read.

    Raises:
        MissingDependencyError: Soundfile is not installed.
    """
    return np.array([np.nan if header is None else header[0] / header[1] for header in _headers(dataset)])


def _kept(dataset: RawDataset, kind: str, find: Callable[[RawDataset], np.ndarray]) -> np.ndarray:
    """Return the lengths that an earlier run stored for a large source, or find and store them."""
    path = _kept_file(dataset, kind)
    if path is None:
        return find(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process of a machine finds them, the others wait for the result.
    with WeakFileLock(path.with_suffix(".lock")):
        if not path.is_file():
            found = find(dataset)
            with write_file(path) as file:
                np.save(file, found)
    return np.load(path)


def _samples_in_headers(dataset: RawDataset) -> np.ndarray:
    """Return the samples at 16 kHz of each recording, -1 where there are none or the header cannot be read."""
    counts = [-(-count * SAMPLING_RATE // rate) for count, rate in (header or (0, 1) for header in _headers(dataset))]
    return np.array([count or -1 for count in counts], dtype=np.int64)


def _headers(dataset: RawDataset) -> list[tuple[int, int] | None]:
    """Return the result of `read_header` for each recording."""
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        rate = {} if dataset.settings.sampling_rate is None else {"array_rate": dataset.settings.sampling_rate}
        found = pool.map(lambda row: read_header(dataset.table.values[int(row)], **rate), dataset.rows)
        quiet = len(dataset) < KEPT_FROM or not logger.isEnabledFor(logging.INFO)
        return list(tqdm(found, "Lengths of recordings", len(dataset), disable=quiet))


def read_header(value: Any, array_rate: int | None = None) -> tuple[int, int] | None:
    """Return samples and sampling rate of one undecoded recording, or None if its header lacks or understates them.

    Args:
        value: As `decode_audio` takes it; of a file, only the header is read (of MP3 and Ogg, those of all frames).
        array_rate: Rate of arrays without one.

    Raises:
        MissingDependencyError: Soundfile is needed and not installed.
    """
    if isinstance(value, dict) and value.get("array") is not None:
        rate = value.get("sampling_rate") or array_rate
        return (max(np.shape(value["array"]), default=0), int(rate)) if rate else None
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    soundfile = need("soundfile", "audio")
    try:
        if isinstance(value, str | Path):
            info = soundfile.info(str(value))
            with open(value, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                hidden = hides_samples(content)
        else:
            info = soundfile.info(io.BytesIO(value))
            hidden = hides_samples(value)
    except Exception:  # the decoder will raise the error again
        return None
    if hidden:
        return None
    # Headers of files that were written to a pipe hold the largest possible number.
    return (info.frames, info.samplerate) if info.frames < 2**62 else None


def _kept_file(dataset: RawDataset, kind: str) -> Path | None:
    """Return the file for the lengths of a large source; None if a change of the source could not be noticed."""
    if len(dataset) < KEPT_FROM:
        return None
    identity = dataset.table.values.identity
    if identity is None:
        return None
    from datasets.config import HF_DATASETS_CACHE

    digest = hashlib.blake2b(f"{kind}\n{identity}".encode("utf-8", "surrogateescape"), digest_size=16)
    digest.update(dataset.rows.astype("<i8").tobytes())
    return Path(HF_DATASETS_CACHE) / "data2vec_lengths" / f"{digest.hexdigest()}.npy"


def _text_lengths(dataset: RawDataset, transform: TextTransform, report: DataReport | None) -> np.ndarray:
    """Return the tokens of each document, cut where the transform cuts; the most for an unusable one."""
    lengths = np.full(len(dataset), transform.max_length, dtype=np.int64)
    for start in range(0, len(dataset), DOCUMENTS_AT_ONCE):
        records = {}
        for index in range(start, min(start + DOCUMENTS_AT_ONCE, len(dataset))):
            try:
                records[index] = dataset.load(index, report)
            except BadSample:
                continue
        if not records:
            continue
        pairs = [record.get("text_pair") for record in records.values()]
        encoded = transform.tokenizer(
            [transform.head(record["text"]) for record in records.values()],
            [transform.head(pair) for pair in pairs] if None not in pairs else None,
            truncation=True,
            max_length=transform.max_length,
            return_attention_mask=False,
        )
        lengths[list(records)] = [len(ids) for ids in encoded["input_ids"]]
    return np.maximum(lengths, 1)
