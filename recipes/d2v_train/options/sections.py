"""Sections of the options of a pretraining run, each with its checks; `run.py` has the top level.

The string below a field is its documentation, shown by `d2v pretrain --help` and `docs/options.md`. A field made by
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
    """When checkpoints are written, and which of them are kept."""

    every: int = free(500)
    """Optimizer steps between two checkpoints; 0 writes one at the end only."""
    minutes: float = free(0.0)
    """Also write a checkpoint when this many minutes have passed since the last one; 0 never does."""
    keep_last: int = free(2)
    """Number of newest checkpoints to keep; older ones are removed once a newer one is complete."""
    keep_every: int = free(0)
    """Also write checkpoints at multiples of this many steps, and never remove them; 0 writes none."""

    def __post_init__(self):
        for name in ("every", "minutes", "keep_every"):
            at_least(f"checkpoints.{name}", getattr(self, name), 0)
        at_least("checkpoints.keep_last", self.keep_last, 1)


@dataclass(kw_only=True)
class HealthOptions:
    """When a run is stopped, or a warning logged, because of non-finite values, bad data or collapse."""

    max_bad_steps: int = free(5)
    """Stop after this many consecutive steps whose loss or gradient is not finite. Each of them is skipped: the
    weights stay unchanged."""
    max_skipped_share: float = free(0.1)
    """Stop when more than this share of all steps was skipped for that reason, from step 100 on."""
    non_finite: str = free("skip")
    """What to do at a step whose loss or gradient is not finite: `skip` skips it, up to `health.max_bad_steps` and
    `health.max_skipped_share`, `stop` ends the run at the first one."""
    max_bad_fraction: float = free(0.01)
    """Stop when more than this share of a modality's samples, or of those drawn so far, cannot be read, and more than
    ten of them; 0 stops at the first, 1 never. Bad samples are replaced by others and listed in
    `bad_samples.jsonl`."""
    collapse: str = free("stop")
    """What to do with a run that has collapsed or diverged by the rules of `health/rules.py`: `stop` ends it, `warn`
    logs a warning and continues."""
    patience: int = free(5)
    """Consecutive log lines with the same finding before a run is stopped or a warning is logged, for some findings
    twice or four times as many; a smaller `logging.every` finds them after fewer steps."""
    min_target_std: float = free(0.05)
    """A run has collapsed if the standard deviation of the targets over tokens is below this; 0 disables the check."""
    min_prediction_std: float = free(0.01)
    """A run has collapsed if the standard deviation of the predictions over tokens is below this; 0 disables the
    check."""
    std_check_from: int = free(200)
    """First step whose log line is checked, after the warm-up at the earliest: a new decoder predicts almost the same
    for every token. The local encoder is checked from half of a shorter run on."""

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
    """Logs, pictures and trackers."""

    every: int = free(10)
    """Optimizer steps between two log lines, on the console, in `log.jsonl` and in the trackers."""
    pictures_every: int = free(0)
    """Optimizer steps between two sets of pictures: samples under their masks and nearest neighbours, in the folder
    `pictures`; 0 draws none. Requires the extra `plots`."""
    gradients_every: int = free(0)
    """Optimizer steps between two comparisons of the modalities' gradients in the shared blocks: their norms, and the
    cosines between and within modalities, see `docs/joint.md`. Each one takes two additional batches of every
    modality, forward and backward; 0 compares none."""
    report_to: list[str] = free(default_factory=list)
    """Trackers that receive each log line, such as `tensorboard` or `wandb`, as a list or separated by commas; `all`
    takes every installed one, `none` takes none."""
    project: str = free("data2vec")
    """Project or experiment of the run in the trackers."""
    run_name: str | None = free(None)
    """Name of the run in the trackers; null takes the name of the folder `output_dir`."""
    license: str | None = free(None)
    """Licence of the weights, such as `apache-2.0`; null keeps that of the weights that the run starts from."""

    def __post_init__(self):
        names = [name.strip() for entry in self.report_to for name in entry.split(",")]
        self.report_to = [name for name in names if name not in ("", "none", "no")]
        at_least("logging.every", self.every, 1)
        for name in ("pictures_every", "gradients_every"):
            at_least(f"logging.{name}", getattr(self, name), 0)


@dataclass(kw_only=True)
class HubOptions:
    """Upload to the Hugging Face Hub."""

    push: bool = free(False)
    """Upload the finished model with its model card when the run ends. A failed upload does not lose the run."""
    model_id: str | None = free(None)
    """Repository to upload to, such as `me/my-model`; null takes the name of the folder `output_dir`."""
    license: str | None = free(None)
    """Licence of the weights, such as `apache-2.0`; null keeps that of the weights that the run starts from."""


@dataclass(kw_only=True)
class DataOptions:
    """Data sources and loading."""

    text: str | list[str | dict[str, Any]] | None = None
    """Source of the documents: a folder or file of text or parquet, or the name of a dataset on the Hub; "builtin" is
    the built-in prose, "builtin:digits" built-in sentences about digits. A list takes several, each a source or a
    mapping with `source`, `split`, `ratio` (how often it is drawn) and the keys of `text.dataset`."""
    vision: str | list[str | dict[str, Any]] | None = None
    """Source of the images: a folder of images or parquet, or the name of a dataset on the Hub; "builtin" is
    the built-in digits. A list takes several, as in `data.text`."""
    audio: str | list[str | dict[str, Any]] | None = None
    """Source of the recordings: a folder of wav, flac, ogg or mp3 files or of parquet, or the name of a dataset on
    the Hub; "builtin" is the built-in speech. A list takes several, as in `data.text`."""
    arrays: str | list[str | dict[str, Any]] | None = None
    """Source of arrays, such as series of sensors: a folder of `.npy` files or of parquet with lists of numbers, or
    the name of a dataset on the Hub; "builtin" is the built-in series. A list takes several, as in `data.text`."""
    streaming: bool = free(False)
    """Read parquet (local or on the Hub) and text files when their rows are needed, instead of downloading, converting
    or loading them as a whole first."""
    shuffle_buffer: int | None = None
    """Shuffle the order of blocks of this many consecutive samples, and the samples within each block; null shuffles
    all samples together, with `data.streaming` blocks of 10,000. The same number gives the same batches, streamed or
    not."""
    num_workers: int = free(0)
    """Processes that prepare batches ahead of time; 0 prepares them in the training process. Any number gives the same
    batches. Raise it if the log shows that the run waits for data."""
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
    """A modality of the run: batches, share, data and transform."""

    section: ClassVar[str]
    """Name of the section, for messages."""

    batch_size: int | None = None
    """Samples in one optimizer step, over all processes and micro-batches; null takes 16, or as many as
    `batch_tokens` allows."""
    batch_tokens: int | None = None
    """Tokens in one optimizer step instead of a number of samples: frames of speech, tokens of text, without padding.
    Not for images, which all have the same number."""
    micro_batch_size: int | None = free(None)
    """Maximum number of samples in a forward pass on a device. It determines the number of passes per step instead of
    `accumulate`, so that the batch stays the same on any number of devices."""
    micro_batch_tokens: int | None = free(None)
    """Maximum number of tokens in a forward pass on a device, including padding, instead of a number of samples. Not
    for images."""
    bucket_steps: int = 0
    """Sort the samples of this many steps by length before they are dealt to batches, so that a batch has samples of
    similar length and less padding; 0 keeps the random order. Not for images."""
    ratio: float = 1.0
    """Share of the steps (`schedule=alternate`) or weight of the loss (`schedule=mixed`), relative to the other
    modalities."""
    split: str = "train"
    """Split of the data source, such as `train` or `train+validation`."""
    dataset: dict[str, Any] = field(default_factory=dict)
    """How the source is opened: columns, groups to leave out, a limit on the samples."""
    transform: dict[str, Any] = field(default_factory=dict)
    """Transform of each sample into the model's input."""

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
        """Whether the size of a micro-batch is limited."""
        return bool(self.micro_batch_size or self.micro_batch_tokens)

    @property
    def needs_lengths(self) -> bool:
        """Whether batches depend on the lengths of the samples."""
        return bool(self.batch_tokens or self.micro_batch_tokens or self.bucket_steps)


@dataclass(kw_only=True)
class TextOptions(ModalityOptions):
    """Text, which has a tokenizer."""

    section: ClassVar[str] = "text"

    tokenizer: str | None = None
    """Folder or Hub name of a tokenizer; null trains a byte-level BPE of `model.text_config.vocab_size` entries on the
    source."""
    tokenizer_documents: int = 20_000
    """Number of documents, the first ones of the source, that a new tokenizer is trained on."""

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
class ArraysOptions(ModalityOptions):
    """Arrays of numbers with coordinates: series of sensors, images of any number of channels, volumes."""

    section: ClassVar[str] = "arrays"


@dataclass(kw_only=True)
class OptimOptions:
    """AdamW and the learning rate schedule."""

    lr: float = 1e-3
    """Peak learning rate, at the end of the warm-up."""
    min_lr: float = 0.0
    """Learning rate at the end of the schedule, and after it."""
    local_encoder_lr: float = 1.0
    """Factor of the learning rate in the local encoders: convolutions of speech, patch and token embeddings. Small
    runs on speech need 0.1: at the full rate the outputs of the convolutions vanish before the blocks can use
    them."""
    warmup: float = 0.1
    """Linear rise of the learning rate from 0: below 1 a fraction of the schedule, from 1 on a number of steps."""
    hold: float = 0.0
    """How long the peak is held after the warm-up: below 1 a fraction of the schedule, from 1 on a number of steps."""
    curve: str = "cosine"
    """Decay of the learning rate from the peak to `optim.min_lr`: `cosine`, or `exponential`, which needs a `min_lr`
    above 0."""
    schedule_steps: int | None = free(None)
    """Step at which the schedule ends; null takes `max_steps`. Set it if a run may be extended later: `max_steps` can
    be raised on resume only if that does not change the learning rate of any step."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """Decay rates of AdamW's moments, of the gradient and of its square."""
    eps: float = 1e-6
    """Term added to AdamW's denominator for numerical stability."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices and convolutions, in units of the learning rate."""
    decay_all: bool = False
    """Also decay 1-D parameters, biases and ALiBi scales, as in the published base run on speech."""
    max_grad_norm: float = 0.0
    """Clip the norm of the whole gradient to this value; 0 disables clipping."""

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
    """Labelled data that a modality is probed on; the names are those of `d2v probe`."""

    data: str | None = free(None)
    """Labelled source; null takes the first one that the run trains on, with its settings."""
    train_split: str = free("train")
    """Split that the classifier is fitted on."""
    test_split: str | None = free(None)
    """Split that accuracy is measured on; null takes `test`, or without one a held-out fifth of every class."""
    test_groups: list[str] = free(default_factory=list)
    """Measure on these groups only, such as speakers, and leave them out of the training part."""
    exclude_groups: list[str] = free(default_factory=list)
    """Groups left out of both parts."""
    dataset: dict[str, Any] = free(default_factory=dict)
    """How the source is opened, such as its `label_column`; keys as in the `dataset` of a modality."""


@dataclass(kw_only=True)
class ProbeOptions:
    """The online probe: accuracy of a simple classifier on frozen features during the run."""

    every: int = free(0)
    """Optimizer steps between two probes, the first one before training; 0 disables the probe."""
    kind: str = free("knn")
    """Classifier: `knn`, which takes little time, or `linear`."""
    weights: str = free("student")
    """Encoder that is probed: `student`, which is exported at the end, or `teacher`."""
    max_samples: int = free(2000)
    """Maximum number of samples of the training and of the test part, drawn once for the whole run."""
    neighbours: int = free(20)
    """Nearest neighbours that vote in the kNN probe."""
    text: ProbeDataOptions | None = free(None)
    """Data that text is probed on; without this section the training data, if it is labelled."""
    vision: ProbeDataOptions | None = free(None)
    """Data that images are probed on; without this section the training data, if it is labelled."""
    audio: ProbeDataOptions | None = free(None)
    """Data that speech is probed on; without this section the training data, if it is labelled."""
    arrays: ProbeDataOptions | None = free(None)
    """Data that arrays are probed on; without this section the training data, if it is labelled."""

    def __post_init__(self):
        choice("probe.kind", self.kind, ("knn", "linear"))
        choice("probe.weights", self.weights, ("student", "teacher"))
        for name, least in (("every", 0), ("max_samples", 1), ("neighbours", 1)):
            at_least(f"probe.{name}", getattr(self, name), least)
