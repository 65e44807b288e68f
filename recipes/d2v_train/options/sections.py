"""Sections of the options of a pretraining run; `run.py` holds what is not in a section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class DataOptions:
    """Where the data of each modality comes from, and how it is loaded."""

    text: str | list[str | dict[str, Any]] | None = None
    """Text source: local folder or file, or a Hub data set; null reads the built-in sample. A list names several, each
    a source or a mapping with `source`, `split`, `ratio` and further arguments of `open_dataset`."""
    vision: str | list[str | dict[str, Any]] | None = None
    """Image source, likewise."""
    audio: str | list[str | dict[str, Any]] | None = None
    """Speech source, likewise."""
    streaming: bool = False
    """Read parquet, local or on the Hub, and text files when their rows are needed, without converting, downloading or
    loading them as a whole."""
    shuffle_buffer: int | None = None
    """Shuffle the order of blocks of so many consecutive samples, and the samples within each; null shuffles all
    samples together, or with `streaming` blocks of 10,000. With the same number, streaming gives the same batches."""
    num_workers: int = 0
    """Processes that prepare batches ahead of time; 0 prepares them in the training process. Any number gives the
    same batches."""
    prefetch: int = 2
    """Steps that each worker prepares ahead."""

    def __post_init__(self):
        if self.streaming and self.shuffle_buffer is None:
            self.shuffle_buffer = 10_000


@dataclass(kw_only=True)
class ModalityOptions:
    """A modality of the run: batch size, share, data options and transform."""

    batch_size: int | None = None
    """Samples in one optimizer step, over all processes and micro-batches together; null = 16, or what `batch_tokens`
    holds."""
    batch_tokens: int | None = None
    """In the place of `batch_size`: as many samples as so many tokens hold, padding not counted (frames of speech,
    tokens of text)."""
    micro_batch_size: int | None = None
    """Most samples that one forward pass takes on a device: the number of micro-batches follows, in the place of
    `accumulate`, so that the batch stays the same on any number of devices."""
    micro_batch_tokens: int | None = None
    """The same in tokens, padding counted."""
    bucket_steps: int = 0
    """The samples of so many steps are sorted by length and dealt out anew, which saves padding; 0 = not."""
    ratio: float = 1.0
    """Share of the steps (`schedule: alternate`) or weight of the loss (`schedule: mixed`), relative to the other
    modalities."""
    split: str = "train"
    """Split of the data source."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `open_dataset` for this source, such as groups to leave out."""
    transform: dict[str, Any] = field(default_factory=dict)
    """Options of `build_transform` for this modality: crops, flips, concatenation, lengths."""

    def __post_init__(self):
        if self.batch_size is None and self.batch_tokens is None:
            self.batch_size = 16

    @property
    def is_limited(self) -> bool:
        """Whether the number of micro-batches follows from what one of them takes."""
        return bool(self.micro_batch_size or self.micro_batch_tokens)

    @property
    def needs_lengths(self) -> bool:
        """Whether batches depend on the lengths of the samples."""
        return bool(self.batch_tokens or self.micro_batch_tokens or self.bucket_steps)


@dataclass(kw_only=True)
class TextOptions(ModalityOptions):
    """Text, which has a tokenizer besides."""

    tokenizer: str | None = None
    """Folder or Hub name of a tokenizer; null trains a byte-level BPE of `model.text_config.vocab_size` entries on the
    source."""
    tokenizer_documents: int = 20_000
    """Documents that a new tokenizer is trained on, the first ones of the source."""


@dataclass(kw_only=True)
class OptimOptions:
    """AdamW and the course of the learning rate."""

    lr: float = 1e-3
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    local_encoder_lr: float = 1.0
    """Factor of the learning rate in the local encoders: convolutions of speech, patch and token embeddings. Small
    runs on speech want 0.1: at the full rate the convolutions fall silent before the blocks can use them."""
    warmup: float = 0.1
    """Linear warm-up: a fraction of the schedule below 1, a number of steps from 1 on."""
    hold: float = 0.0
    """How long the peak is held after the warm-up, given likewise."""
    curve: str = "cosine"
    """How the learning rate falls from there to `min_lr`: `cosine`, or `exponential`, which needs a `min_lr`."""
    schedule_steps: int | None = None
    """Step at which the fall ends; null = `max_steps`. Set it when a run may be extended later."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of AdamW's two moments."""
    eps: float = 1e-6
    """Term added to AdamW's denominator."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    decay_all: bool = False
    """Decay 1-D parameters, biases and ALiBi scales too (the published audio base run does)."""
    max_grad_norm: float = 0.0
    """Clip the norm of the whole gradient to this; 0 = no clipping."""


@dataclass(kw_only=True)
class ProbeDataOptions:
    """Labelled data that a modality is probed on; the names are those of `recipes/probe.py`."""

    data: str | None = None
    """Source; null = the first one that the run trains on, with the arguments of its `dataset` section."""
    train_split: str = "train"
    """Split that the probe is fitted on."""
    test_split: str | None = None
    """Split that it is measured on; null = `test`, or without one a fifth of every class, held out."""
    test_groups: list[str] = field(default_factory=list)
    """Measure on these groups only, such as speakers, and fit on none of them."""
    exclude_groups: list[str] = field(default_factory=list)
    """Groups left out of both parts."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `open_dataset`, such as `label_column`."""


@dataclass(kw_only=True)
class ProbeOptions:
    """The online probe: what a simple classifier reads from frozen features, while the run goes on."""

    every: int = 0
    """Steps between two probes, the first before training; 0 = none."""
    kind: str = "knn"
    """`knn`, which takes little time, or `linear`."""
    weights: str = "student"
    """Encoder that is probed: `student`, which is exported, or `teacher`."""
    max_samples: int = 2000
    """At most so many samples of either part, drawn once for all."""
    neighbours: int = 20
    """k of the kNN probe."""
    text: ProbeDataOptions | None = None
    """Data of the probe of text; without a section, the training data where it is labelled."""
    vision: ProbeDataOptions | None = None
    """The same for images."""
    audio: ProbeDataOptions | None = None
    """The same for speech."""
