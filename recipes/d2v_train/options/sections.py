"""Sections of the options of a pretraining run, each with its checks; `run.py` holds what is not in a section.

The lines below a field are its documentation: `pretrain.py --help` and `docs/options.md` show them. A field made by
`free` may differ when a run is resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from d2v_train.options.errors import OptionError, at_least, choice
from d2v_train.options.fields import free


@dataclass(kw_only=True)
class CheckpointOptions:
    """When a run writes checkpoints, and which of them stay on the disk."""

    every: int = free(500)
    """Optimizer steps from one checkpoint to the next; 0 writes one at the end only."""
    minutes: float = free(0.0)
    """Also write a checkpoint when so many minutes have passed since the last one; 0 goes by steps alone."""
    keep_last: int = free(2)
    """Newest checkpoints that stay; older ones are removed once a newer one is safely on the disk."""
    keep_every: int = free(0)
    """Also write checkpoints at multiples of so many steps, and never remove those; 0 keeps none for good."""

    def __post_init__(self):
        for name in ("every", "minutes", "keep_every"):
            at_least(f"checkpoints.{name}", getattr(self, name), 0)
        at_least("checkpoints.keep_last", self.keep_last, 1)


@dataclass(kw_only=True)
class HealthOptions:
    """When a run that cannot usefully go on is stopped, or warned of: numbers, data, collapse."""

    max_bad_steps: int = free(5)
    """Stop after so many steps in a row whose loss or gradient is not finite. Each of them is skipped: the weights
    stay as they were."""
    max_skipped_share: float = free(0.1)
    """Stop when more than this share of all steps was skipped for that reason, from step 100 on."""
    non_finite: str = free("skip")
    """What happens at a step whose loss or gradient is not finite: `skip` leaves it out, up to
    `health.max_bad_steps` and `health.max_skipped_share`, `stop` ends the run at the first one."""
    max_bad_fraction: float = free(0.01)
    """Stop when more than this share of a modality's samples, or of those drawn so far, cannot be read, and more than
    ten of them; 0 stops at the first, 1 never. Bad samples are replaced by others and listed in
    `bad_samples.jsonl`."""
    collapse: str = free("stop")
    """What happens to a run that has collapsed or diverged by the rules of `health/rules.py`: `stop` ends it, `warn`
    writes the warning and goes on."""
    patience: int = free(5)
    """Log lines in a row that must agree before a run is stopped or warned. For some findings twice or four times as
    many; a smaller `logging.every` finds them after fewer steps."""
    min_target_std: float = free(0.05)
    """A run has collapsed when the standard deviation of the targets over tokens is below this; 0 never says so."""
    min_prediction_std: float = free(0.01)
    """A run has collapsed when the standard deviation of the predictions over tokens is below this; 0 never says
    so."""
    std_check_from: int = free(200)
    """First step whose log line is judged, though never one of the warm-up: a fresh decoder predicts almost the same
    for every token."""

    def __post_init__(self):
        choice("health.non_finite", self.non_finite, ("skip", "stop"))
        choice("health.collapse", self.collapse, ("stop", "warn"))
        for name in ("max_bad_steps", "patience"):
            at_least(f"health.{name}", getattr(self, name), 1)
        for name in ("max_skipped_share", "min_target_std", "min_prediction_std", "std_check_from"):
            at_least(f"health.{name}", getattr(self, name), 0)
        if not 0 <= self.max_bad_fraction <= 1:
            raise OptionError(f"health.max_bad_fraction is {self.max_bad_fraction}. It must be from 0 to 1.")


@dataclass(kw_only=True)
class LoggingOptions:
    """What a run reports, how often, and where to."""

    every: int = free(10)
    """Optimizer steps from one log line to the next, on the console, in `log.jsonl` and in the trackers."""
    pictures_every: int = free(0)
    """Optimizer steps from one set of pictures to the next: samples under their masks and nearest neighbours, in the
    folder `pictures`; 0 draws none. Takes the extra `plots`."""
    report_to: list[str] = free(default_factory=list)
    """Trackers that get each log line too, such as `tensorboard` or `wandb`, as a list or with commas between; `all`
    takes every one that is installed, `none` takes none."""
    project: str = free("data2vec")
    """Project, or experiment, that the trackers file the run under."""
    run_name: str | None = free(None)
    """Name of the run in the trackers; null takes the name of the folder `output_dir`."""

    def __post_init__(self):
        names = [name.strip() for entry in self.report_to for name in entry.split(",")]
        self.report_to = [name for name in names if name not in ("", "none", "no")]
        at_least("logging.every", self.every, 1)
        at_least("logging.pictures_every", self.pictures_every, 0)


@dataclass(kw_only=True)
class HubOptions:
    """Upload to the Hugging Face Hub."""

    push: bool = free(False)
    """Upload the finished model with its model card when the run ends. A failed upload does not lose the run."""
    model_id: str | None = free(None)
    """Repository to upload to, such as `me/my-model`; null takes the name of the folder `output_dir`."""


@dataclass(kw_only=True)
class DataOptions:
    """Where the data of each modality comes from, and how it is loaded."""

    text: str | list[str | dict[str, Any]] | None = None
    """Source of the documents: a folder or file of text or parquet, or the name of a data set on the Hub; null reads
    the built-in sample. A list takes several, each a source or a mapping with `source`, `split`, `ratio` (how often it
    is drawn) and the names that `text.dataset` takes."""
    vision: str | list[str | dict[str, Any]] | None = None
    """Source of the images: a folder of pictures or parquet, or the name of a data set on the Hub; null reads the
    built-in digits. A list takes several, as in `data.text`."""
    audio: str | list[str | dict[str, Any]] | None = None
    """Source of the recordings: a folder of wav, flac, ogg or mp3 files or of parquet, or the name of a data set on
    the Hub; null reads the built-in speech. A list takes several, as in `data.text`."""
    streaming: bool = free(False)
    """Read parquet (local or on the Hub) and text files when their rows are needed, instead of downloading, converting
    or loading them as a whole first."""
    shuffle_buffer: int | None = None
    """Shuffle the order of blocks of so many consecutive samples, and the samples within each block; null shuffles all
    samples together, with `data.streaming` blocks of 10,000. The same number gives the same batches, streamed or
    not."""
    num_workers: int = free(0)
    """Processes that prepare batches ahead of time; 0 prepares them in the training process. Any number gives the same
    batches. Raise it when the log says that the run waits for data."""
    prefetch: int = free(2)
    """Optimizer steps that each of these processes prepares ahead."""

    def __post_init__(self):
        if self.streaming and self.shuffle_buffer is None:
            self.shuffle_buffer = 10_000
        at_least("data.num_workers", self.num_workers, 0)
        for name in ("prefetch", "shuffle_buffer"):
            at_least(f"data.{name}", getattr(self, name), 1)


@dataclass(kw_only=True)
class ModalityOptions:
    """A modality of the run: size of its batches, its share, what its samples go through."""

    section: ClassVar[str]
    """Name of the section, for messages."""

    batch_size: int | None = None
    """Samples in one optimizer step, over all processes and micro-batches together; null takes 16, or what
    `batch_tokens` holds."""
    batch_tokens: int | None = None
    """Tokens in one optimizer step instead of a number of samples: frames of speech, tokens of text, padding not
    counted. Not for images, which all have as many."""
    micro_batch_size: int | None = free(None)
    """Most samples that one forward pass takes on a device. How many passes a step has follows from it, instead of
    from `accumulate`, so that the batch stays the same on any number of devices."""
    micro_batch_tokens: int | None = free(None)
    """Most tokens that one forward pass takes on a device, padding counted, instead of a number of samples. Not for
    images."""
    bucket_steps: int = 0
    """Sort the samples of so many steps by length and deal them out anew, so that samples of like length meet and less
    is padding; 0 leaves them in random order. Not for images."""
    ratio: float = 1.0
    """Share of the steps (`schedule=alternate`) or weight of the loss (`schedule=mixed`), relative to the other
    modalities."""
    split: str = "train"
    """Split of the data source, such as `train` or `train+validation`."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """How the source is opened: columns, groups to leave out, a limit on the samples."""
    transform: dict[str, Any] = field(default_factory=dict)
    """What each sample goes through before it reaches the model."""

    def __post_init__(self):
        if self.batch_size is None and self.batch_tokens is None:
            self.batch_size = 16
        at_least(f"{self.section}.bucket_steps", self.bucket_steps, 0)
        for unit in ("size", "tokens"):
            for name in (f"batch_{unit}", f"micro_batch_{unit}"):
                at_least(f"{self.section}.{name}", getattr(self, name), 1)
        for kind in ("batch", "micro_batch"):
            pair = (f"{kind}_size", f"{kind}_tokens")
            if None not in (getattr(self, name) for name in pair):
                one, other = (f"{self.section}.{name}" for name in pair)
                raise OptionError(f"{one} and {other} are both given. Set one of them to null.")
        if not 0 < self.ratio < math.inf:
            raise OptionError(f"{self.section}.ratio is {self.ratio}. It must be positive; to leave a modality out, "
                              f"set {self.section}=null.")  # fmt: skip

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

    section: ClassVar[str] = "text"

    tokenizer: str | None = None
    """Folder or Hub name of a tokenizer; null trains a byte-level BPE of `model.text_config.vocab_size` entries on the
    source."""
    tokenizer_documents: int = 20_000
    """Documents that a new tokenizer is trained on, the first ones of the source."""

    def __post_init__(self):
        super().__post_init__()
        at_least("text.tokenizer_documents", self.tokenizer_documents, 1)


@dataclass(kw_only=True)
class VisionOptions(ModalityOptions):
    """Images, all of the same size."""

    section: ClassVar[str] = "vision"

    def __post_init__(self):
        super().__post_init__()
        if self.needs_lengths:
            raise OptionError(
                "vision takes neither batch_tokens, micro_batch_tokens nor bucket_steps: images all have the same "
                "size. Give vision.batch_size and vision.micro_batch_size."
            )


@dataclass(kw_only=True)
class AudioOptions(ModalityOptions):
    """Speech."""

    section: ClassVar[str] = "audio"


@dataclass(kw_only=True)
class OptimOptions:
    """AdamW and the course of the learning rate."""

    lr: float = 1e-3
    """Peak learning rate, which the warm-up ends at."""
    min_lr: float = 0.0
    """Learning rate at the end of its fall, and from there on."""
    local_encoder_lr: float = 1.0
    """Factor of the learning rate in the local encoders: convolutions of speech, patch and token embeddings. Small
    runs on speech want 0.1: at the full rate the convolutions fall silent before the blocks can use them."""
    warmup: float = 0.1
    """Linear rise of the learning rate from 0: below 1 a fraction of the schedule, from 1 on a number of steps."""
    hold: float = 0.0
    """How long the peak is held after the warm-up: below 1 a fraction of the schedule, from 1 on a number of steps."""
    curve: str = "cosine"
    """How the learning rate falls from the peak to `optim.min_lr`: `cosine`, or `exponential`, which needs a `min_lr`
    above 0."""
    schedule_steps: int | None = free(None)
    """Step at which the fall ends; null takes `max_steps`. Give it when a run may be extended later: `max_steps` can
    be raised on resume only while the learning rate of each step stays what it was."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of AdamW's two moments, of the gradient and of its square."""
    eps: float = 1e-6
    """Term added to AdamW's denominator, against division by very small moments."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and convolutions, in units of the learning rate."""
    decay_all: bool = False
    """Also decay 1-D parameters, biases and ALiBi scales, as the published base run on speech does."""
    max_grad_norm: float = 0.0
    """Scale the whole gradient down to this norm where it is larger; 0 never does."""

    def __post_init__(self):
        choice("optim.curve", self.curve, ("cosine", "exponential"))
        for name in ("min_lr", "local_encoder_lr", "warmup", "hold", "eps", "weight_decay", "max_grad_norm"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        if not 0 < self.lr < math.inf:
            raise OptionError(f"optim.lr is {self.lr}. It must be a positive number.")
        at_least("optim.schedule_steps", self.schedule_steps, 1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError(
                f"optim.betas is {self.betas}. It takes two numbers from 0 to below 1, such as [0.9, 0.98]."
            )
        if self.curve == "exponential" and self.min_lr == 0:
            raise OptionError(
                "optim.curve is exponential, which never reaches optim.min_lr=0. Give the learning rate to end with, "
                f"for example optim.min_lr={0.01 * self.lr:g}."
            )


@dataclass(kw_only=True)
class ProbeDataOptions:
    """Labelled data that a modality is probed on; the names are those of `recipes/probe.py`."""

    data: str | None = free(None)
    """Labelled source; null takes the first one that the run trains on, opened as the run opens it."""
    train_split: str = free("train")
    """Split that the classifier is fitted on."""
    test_split: str | None = free(None)
    """Split that accuracy is measured on; null takes `test`, or without one a fifth of every class, held out."""
    test_groups: list[str] = free(default_factory=list)
    """Measure on these groups only, such as speakers, and fit on none of them."""
    exclude_groups: list[str] = free(default_factory=list)
    """Groups left out of both parts."""
    dataset: dict[str, Any] = free(default_factory=dict)
    """How the source is opened, such as its `label_column`; names as in the `dataset` of a modality."""


@dataclass(kw_only=True)
class ProbeOptions:
    """The online probe: what a simple classifier reads from frozen features while the run goes on."""

    every: int = free(0)
    """Optimizer steps from one probe to the next, the first one before training; 0 probes never."""
    kind: str = free("knn")
    """Classifier: `knn`, which takes little time, or `linear`."""
    weights: str = free("student")
    """Encoder that is probed: `student`, which is exported at the end, or `teacher`."""
    max_samples: int = free(2000)
    """Most samples of the training and of the test part, drawn once for the whole run."""
    neighbours: int = free(20)
    """Nearest neighbours that vote in the kNN probe."""
    text: ProbeDataOptions | None = free(None)
    """Data that text is probed on; without this section the training data, where it is labelled."""
    vision: ProbeDataOptions | None = free(None)
    """Data that images are probed on; without this section the training data, where it is labelled."""
    audio: ProbeDataOptions | None = free(None)
    """Data that speech is probed on; without this section the training data, where it is labelled."""

    def __post_init__(self):
        choice("probe.kind", self.kind, ("knn", "linear"))
        choice("probe.weights", self.weights, ("student", "teacher"))
        for name, least in (("every", 0), ("max_samples", 1), ("neighbours", 1)):
            at_least(f"probe.{name}", getattr(self, name), least)
