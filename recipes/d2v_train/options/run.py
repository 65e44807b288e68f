"""Options of a pretraining run: fields with their documentation below them. `files.py` reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from d2v_train.options.errors import OptionError, at_least, choice
from d2v_train.options.fields import free
from d2v_train.options.sections import (
    ArraysOptions,
    AudioOptions,
    CheckpointOptions,
    DataOptions,
    HealthOptions,
    HubOptions,
    LoggingOptions,
    OptimOptions,
    ProbeOptions,
    TextOptions,
    VisionOptions,
)
from modeling_d2v.configuration_modalities import MODALITIES


@dataclass(kw_only=True)
class Options:
    """Folder, length, initial weights and computation of a run.

    Raises:
        OptionError: If a value is out of range, or contradicts another one.
    """

    output_dir: str = free("")
    """Folder of the run: checkpoints, `log.jsonl`, `run.yaml` with all options, and the finished model in `final`. It
    may be moved between two starts of a run."""
    max_steps: int = free(1000)
    """Optimizer steps of the whole run. To raise it on resume, set `optim.schedule_steps`."""
    seed: int = 0
    """Seed of weights, sample order, augmentation, masks and dropout."""
    schedule: str = "alternate"
    """How modalities share the run: `alternate` takes one modality per optimizer step, in a periodic pattern;
    `mixed` accumulates a batch of every modality in each step."""
    batch_scale: float = 1.0
    """Factor of the configured batch sizes. Learning rate, weight decay, moments, teacher and steps are scaled by the
    rule of `pretraining/scaling.py` (approximate)."""
    accumulate: int = free(1)
    """Micro-batches that the batch of each modality is cut into, to save memory. Modalities with `micro_batch_size` or
    `micro_batch_tokens` ignore it."""
    mixed_precision: str = "no"
    """Precision of forward and backward pass: `no` (fp32), `bf16`, or `fp16` with a scaled loss; weights, teacher and
    optimizer stay in fp32."""
    compile: bool = free(False)
    """Compile the model with `torch.compile`: slow to start, faster steps on accelerators."""
    gradient_checkpointing: bool = free(False)
    """Recompute activations in the backward pass instead of keeping them: less memory, slower steps."""
    cpu: bool = free(False)
    """Train on the CPU even if there is an accelerator."""
    resume: str = free("auto")
    """What to do if `output_dir` contains checkpoints: `auto` resumes from the newest complete one, `never` is an
    error."""
    init_from: str | None = None
    """Checkpoint of this package to start from (continued pretraining): a pretraining or an encoder checkpoint, as a
    local folder or a name on the Hub. Its configuration determines the model. The teacher starts from the checkpoint,
    or from the student if the checkpoint has none."""
    init_parts: str = "all"
    """What is taken from `init_from`: `all`, or `blocks` for the shared blocks alone, which may then be those of
    another modality. With `blocks`, the checkpoint determines sizes and structure of the blocks, the `model` section
    all else; the teacher starts from the student."""
    freeze: str | None = None
    """Parts of the student that are not trained: `blocks` for what the modalities share of the shared blocks, such as
    pretrained blocks under a new front end. Norms and feed-forward parts per modality are trained."""
    backbone: str | None = None
    """Encoder of transformers to train further with the objective of data2vec 1.0, as a local folder or a name on the
    Hub. The `model` section then takes fields of `BackbonePreTrainingConfig`."""
    dry_run: bool = free(False)
    """Print parameters, memory, data, time and disk of the run after a few real steps, and write nothing."""
    model: dict[str, Any] = field(default_factory=dict)
    """The network and its objective: `preset` (a published size), and fields of `Data2VecConfig` and of its
    sub-configurations, which override those of the preset."""
    data: DataOptions = field(default_factory=DataOptions)
    """Data sources and loading."""
    text: TextOptions | None = None
    """Text; a modality without a section is not trained."""
    vision: VisionOptions | None = None
    """Images; a modality without a section is not trained."""
    audio: AudioOptions | None = None
    """Speech; a modality without a section is not trained."""
    arrays: ArraysOptions | None = None
    """Arrays of numbers; a modality without a section is not trained."""
    optim: OptimOptions = field(default_factory=OptimOptions)
    """Optimizer and learning rate."""
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    """Checkpoints of the run."""
    logging: LoggingOptions = field(default_factory=LoggingOptions)
    """Log, pictures and trackers."""
    health: HealthOptions = field(default_factory=HealthOptions)
    """Limits at which a run is stopped or a warning is logged."""
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    """Online probe of the features."""
    hub: HubOptions = field(default_factory=HubOptions)
    """Upload of the finished model."""

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities in the run, in fixed order."""
        return [name for name in MODALITIES if getattr(self, name) is not None]

    @property
    def schedule_steps(self) -> int:
        """Step at which the learning rate reaches its minimum."""
        return self.max_steps if self.optim.schedule_steps is None else self.optim.schedule_steps

    @property
    def warmup_steps(self) -> int:
        """Warm-up in steps, given as a fraction or as a number."""
        warmup = self.optim.warmup
        return round(warmup * self.schedule_steps) if warmup < 1 else round(warmup)

    @property
    def hold_steps(self) -> int:
        """Steps at the peak, given as a fraction or as a number."""
        hold = self.optim.hold
        return round(hold * self.schedule_steps) if hold < 1 else round(hold)

    def loss_weights(self, modalities: list[str]) -> dict[str, float]:
        """Return the loss weight of each modality of a step: its ratio, normalised over these modalities."""
        ratios = {name: getattr(self, name).ratio for name in modalities}
        return {name: ratio / sum(ratios.values()) for name, ratio in ratios.items()}

    def __post_init__(self):
        if not self.output_dir:
            raise OptionError("output_dir is empty. Name the folder of the run, for example output_dir=runs/first.")
        if not self.modalities:
            raise OptionError(
                "The run has no modality. Give it a section text, vision, audio or arrays, with a batch_size."
            )
        choice("schedule", self.schedule, ("alternate", "mixed"))
        choice("mixed_precision", self.mixed_precision, ("no", "bf16", "fp16"))
        choice("resume", self.resume, ("auto", "never"))
        choice("init_parts", self.init_parts, ("all", "blocks"))
        if self.freeze is not None:
            choice("freeze", self.freeze, ("blocks",))
        for name in ("max_steps", "accumulate"):
            at_least(name, getattr(self, name), 1)
        if not 0 <= self.seed < 2**31:
            raise OptionError(f"seed is {self.seed}. It must be from 0 to {2**31 - 1}.")
        if not 0 < self.batch_scale < math.inf:
            raise OptionError(f"batch_scale is {self.batch_scale}. It must be a positive number.")
        self._check_backbone()
        for name in MODALITIES:
            if getattr(self.probe, name) is not None and name not in self.modalities:
                raise OptionError(f"probe.{name} is given, but the run has no {name}. Leave it out.")
        self._check_accumulate()
        self._check_schedule()

    def _check_backbone(self) -> None:
        """Check the options that contradict `backbone`."""
        for name in ("backbone", "init_from"):
            if getattr(self, name) == "":
                raise OptionError(f"{name} is empty. Give a folder or a name on the Hub, or {name}=null for none.")
        if self.init_parts != "all" and self.init_from is None:
            raise OptionError(f"init_parts is {self.init_parts}, but nothing is taken. Give init_from, or drop it.")
        if self.freeze is not None and self.logging.gradients_every:
            raise OptionError(
                f"logging.gradients_every compares gradients in the shared blocks, which freeze={self.freeze} leaves "
                "without any. Set one of them to its default."
            )
        if self.backbone is None:
            return
        for name, given in (("freeze", self.freeze), ("logging.gradients_every", self.logging.gradients_every)):
            if given:
                raise OptionError(f"{name} is about the blocks that modalities share, and backbone={self.backbone} "
                                  "has one modality. Drop it.")  # fmt: skip
        if self.init_from is not None or self.model.get("preset") is not None:
            other = "init_from" if self.init_from is not None else "model.preset"
            raise OptionError(f"backbone={self.backbone} already determines the model, and {other} contradicts it. "
                              "Drop one.")  # fmt: skip
        if len(self.modalities) > 1:
            raise OptionError(
                f"backbone={self.backbone} has one modality, and the run has {', '.join(self.modalities)}. Set the "
                f"others to null, such as {self.modalities[1]}=null."
            )

    def _check_accumulate(self) -> None:
        """Check that `accumulate` has an effect: limits of micro-batches determine their number."""
        sections = {name: getattr(self, name) for name in self.modalities}
        for name, section in sections.items():
            if not section.is_limited:
                at_least(f"{name}.batch_size", section.batch_size, self.accumulate)
        if self.accumulate == 1 or not all(section.is_limited for section in sections.values()):
            return
        given = [f"{name}.{option}" for name, section in sections.items()
                 for option in ("micro_batch_size", "micro_batch_tokens") if getattr(section, option)]  # fmt: skip
        raise OptionError(
            f"accumulate is {self.accumulate}, but {' and '.join(given)} already determine the number of "
            f"micro-batches. Set accumulate=1 and change these instead, or set {given[0]}=null."
        )

    def _check_schedule(self) -> None:
        """Check that warm-up and hold are not longer than the schedule."""
        if self.warmup_steps + self.hold_steps <= self.schedule_steps:
            return
        what = f"optim.warmup is {self.warmup_steps} steps" + (
            f" and optim.hold {self.hold_steps}, together" if self.hold_steps else ","
        )
        raise OptionError(
            f"{what} longer than the schedule of {self.schedule_steps}. Shorten it, or give it as a fraction such "
            "as 0.1."
        )
