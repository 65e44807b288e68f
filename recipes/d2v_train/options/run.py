"""Options of a pretraining run: every option is a field with its doc line below it; `option_files.py` reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from d2v_train.options.errors import OptionError, at_least, choice
from d2v_train.options.sections import DataOptions, ModalityOptions, OptimOptions, ProbeOptions, TextOptions
from modeling_d2v.configuration_modalities import MODALITIES


@dataclass(kw_only=True)
class Options:
    """All options of a run.

    Raises:
        OptionError: a value is outside of its range, or contradicts another one.
    """

    output_dir: str = ""
    """Folder of the run: checkpoints, log.jsonl, run.yaml and the exported model in `final`."""
    seed: int = 0
    """Seed of weights, sample order, augmentation and masks."""
    max_steps: int = 1000
    """Optimizer steps."""
    batch_scale: float = 1.0
    """Run with this many times the configured batches, and with learning rate, moving averages and steps by the rule
    of `scaling.py`."""
    schedule: str = "alternate"
    """How modalities share the run: `alternate` takes one modality per optimizer step, in a periodic pattern;
    `mixed` accumulates a batch of every modality in each step."""
    accumulate: int = 1
    """Micro-batches that the batch of a modality is cut into, to save memory; those with `micro_batch_size` or
    `micro_batch_tokens` follow that instead."""
    mixed_precision: str = "no"
    """`no`, `bf16` or `fp16`; weights, teacher and optimizer stay in fp32."""
    compile: bool = False
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    cpu: bool = False
    """Stay on the CPU even where there is an accelerator."""
    log_every: int = 10
    """Steps between two log lines."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; 0 = only at the end."""
    checkpoint_minutes: float = 0.0
    """Minutes after which a checkpoint is written too, by the clock; 0 = by steps only."""
    keep_last: int = 2
    """Checkpoints that are kept; older ones are removed."""
    keep_every: int = 0
    """Checkpoints at multiples of so many steps are written and never removed; 0 = none."""
    resume: str = "auto"
    """`auto` goes on from the newest whole checkpoint in `output_dir`; `never` demands a fresh folder."""
    init_from: str | None = None
    """Checkpoint that gives the first weights (continued pretraining): a pretraining or an encoder checkpoint, a local
    folder or a Hub name. The teacher starts from the file, or from the student where the file has none."""
    backbone: str | None = None
    """Encoder of transformers that is trained further with the objective of data2vec 1.0: a local folder or a Hub name
    (`backbones.py`). The `model` section then holds fields of `BackbonePreTrainingConfig`."""
    max_bad_steps: int = 5
    """Stop after so many consecutive steps whose loss or gradient is not finite. Each such step is skipped."""
    max_skipped_share: float = 0.1
    """Stop when more than this share of all steps (from the hundredth on) was skipped for that reason."""
    non_finite: str = "skip"
    """What a step whose loss or gradient is not finite does: `skip` leaves it out, up to these two limits; `stop` ends
    the run at the first."""
    collapse: str = "stop"
    """What a collapsed run does (`health_rules.py`): `stop`, or `warn` to go on and only be told."""
    patience: int = 5
    """Log lines in a row that must agree before a run is stopped or warned; a few stop four times as late."""
    max_bad_fraction: float = 0.01
    """Stop when more than this share of a modality's samples, or of those drawn so far, cannot be used, and more than
    ten of them; 1 = never, 0 = at the first one. They are replaced, and listed in `bad_samples.jsonl`."""
    min_target_std: float = 0.05
    """Stop when the targets' standard deviation over a batch is below this; 0 = never."""
    min_prediction_std: float = 0.01
    """The same for the predictions."""
    std_check_from: int = 200
    """Step from which log lines are checked for these two, though never before the warm-up is over: a fresh decoder
    predicts almost the same everywhere."""
    report_to: list[str] = field(default_factory=list)
    """Trackers of Accelerate that get the log lines too, such as `tensorboard` or `wandb`; `all` for every one that is
    installed, `none` for none. A list, or names with commas between."""
    project: str = "data2vec"
    """Project, or experiment, that the trackers put the run under."""
    run_name: str | None = None
    """Name of the run there; null = the name of `output_dir`."""
    dry_run: bool = False
    """Print what the run would be (parameters, memory, data, time, disk) after a few real steps, and write nothing."""
    push_to_hub: bool = False
    """Upload the exported model at the end."""
    hub_model_id: str | None = None
    """Repository to upload to; null = the name of `output_dir`."""
    pictures_every: int = 0
    """Steps between two sets of pictures of masks and of nearest neighbours in `pictures/`; 0 = none."""
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    """Online probe of the features."""
    data: DataOptions = field(default_factory=DataOptions)
    """Data sources and loading."""
    model: dict[str, Any] = field(default_factory=dict)
    """`preset` (a published size) and fields of Data2VecConfig with its sub-configurations."""
    optim: OptimOptions = field(default_factory=OptimOptions)
    """Optimizer and learning rate."""
    text: TextOptions | None = None
    """Text; a modality without a section takes no part in the run."""
    vision: ModalityOptions | None = None
    """Images."""
    audio: ModalityOptions | None = None
    """Speech."""

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
        """Warm-up in steps, whether it was given as a fraction or as a number."""
        warmup = self.optim.warmup
        return round(warmup * self.schedule_steps) if warmup < 1 else round(warmup)

    @property
    def hold_steps(self) -> int:
        """Steps at the peak, likewise."""
        hold = self.optim.hold
        return round(hold * self.schedule_steps) if hold < 1 else round(hold)

    def __post_init__(self):
        names = [name.strip() for entry in self.report_to for name in entry.split(",")]
        self.report_to = [name for name in names if name not in ("", "none", "no")]
        if not self.output_dir:
            raise OptionError("output_dir is empty. Name the folder of the run, for example output_dir=runs/first.")
        if not self.modalities:
            raise OptionError("The run has no modality. Give it a section text, vision or audio, with a batch_size.")
        self._check_backbone()
        choice("schedule", self.schedule, ("alternate", "mixed"))
        choice("mixed_precision", self.mixed_precision, ("no", "bf16", "fp16"))
        choice("resume", self.resume, ("auto", "never"))
        choice("non_finite", self.non_finite, ("skip", "stop"))
        choice("collapse", self.collapse, ("stop", "warn"))
        choice("probe.kind", self.probe.kind, ("knn", "linear"))
        choice("probe.weights", self.probe.weights, ("student", "teacher"))
        for name in MODALITIES:
            if getattr(self.probe, name) is not None and name not in self.modalities:
                raise OptionError(f"probe.{name} is given, but the run has no {name}. Leave it out.")
        self._check_ranges()
        for name in self.modalities:
            section = getattr(self, name)
            self._check_batches(name, section)
            if not 0 < section.ratio < math.inf:
                raise OptionError(f"{name}.ratio is {section.ratio}. It must be positive; to leave a modality out, "
                                  f"set {name}=null.")  # fmt: skip
        self._check_accumulate()
        if len(self.optim.betas) != 2 or not all(0 <= beta < 1 for beta in self.optim.betas):
            raise OptionError(
                f"optim.betas is {self.optim.betas}. It takes two numbers from 0 to below 1, such as [0.9, 0.98]."
            )
        if self.warmup_steps + self.hold_steps > self.schedule_steps:
            what = f"optim.warmup is {self.warmup_steps} steps" + (
                f" and optim.hold {self.hold_steps}, together" if self.hold_steps else ","
            )
            raise OptionError(
                f"{what} longer than the schedule of {self.schedule_steps}. Shorten it, or give it as a fraction such "
                "as 0.1."
            )
        choice("optim.curve", self.optim.curve, ("cosine", "exponential"))
        if self.optim.curve == "exponential" and self.optim.min_lr == 0:
            raise OptionError(
                "optim.curve is exponential, which never reaches optim.min_lr=0. Give the learning rate to end with, "
                f"for example optim.min_lr={0.01 * self.optim.lr:g}."
            )

    def _check_backbone(self) -> None:
        """Checks what an encoder of transformers excludes."""
        for name in ("backbone", "init_from"):
            if getattr(self, name) == "":
                raise OptionError(f"{name} is empty. Give a folder or a name on the Hub, or {name}=null for none.")
        if self.backbone is None:
            return
        if self.init_from is not None or self.model.get("preset") is not None:
            other = "init_from" if self.init_from is not None else "model.preset"
            raise OptionError(f"backbone={self.backbone} already decides the model, and {other} contradicts it. Drop "
                              "one.")  # fmt: skip
        if len(self.modalities) > 1:
            raise OptionError(
                f"backbone={self.backbone} has one modality, and the run has {', '.join(self.modalities)}. Set the "
                f"others to null, such as {self.modalities[1]}=null."
            )

    def _check_batches(self, name: str, section: ModalityOptions) -> None:
        """Checks what decides the size of the batches of a modality."""
        at_least(f"{name}.bucket_steps", section.bucket_steps, 0)
        for option in ("batch_size", "batch_tokens", "micro_batch_size", "micro_batch_tokens"):
            at_least(f"{name}.{option}", getattr(section, option), 1)
        for pair in (("batch_size", "batch_tokens"), ("micro_batch_size", "micro_batch_tokens")):
            if None not in (getattr(section, option) for option in pair):
                raise OptionError(f"{name}.{pair[0]} and {name}.{pair[1]} are both given. Set one of them to null.")
        if name == "vision" and section.needs_lengths:
            raise OptionError(
                "vision takes neither batch_tokens, micro_batch_tokens nor bucket_steps: images all have the same "
                "size. Give vision.batch_size and vision.micro_batch_size."
            )
        if not section.is_limited:
            at_least(f"{name}.batch_size", section.batch_size, self.accumulate)

    def _check_accumulate(self) -> None:
        """Checks that there is something to accumulate: where passes have a limit, their number follows from it."""
        if self.accumulate == 1 or not all(getattr(self, name).is_limited for name in self.modalities):
            return
        names = ("micro_batch_size", "micro_batch_tokens")
        given = [f"{name}.{option}" for name in self.modalities for option in names
                 if getattr(getattr(self, name), option)]  # fmt: skip
        raise OptionError(
            f"accumulate is {self.accumulate}, but how many parts a batch is cut into follows from "
            f"{' and '.join(given)} already. Set accumulate=1 and change that instead, or set {given[0]}=null."
        )

    def _check_ranges(self) -> None:
        """Checks the numbers that have a least value."""
        for name in ("max_steps", "accumulate", "log_every", "keep_last", "max_bad_steps", "patience"):
            at_least(name, getattr(self, name), 1)
        for name in ("seed", "checkpoint_every", "checkpoint_minutes", "keep_every", "min_target_std",
                     "min_prediction_std", "std_check_from", "max_skipped_share"):  # fmt: skip
            at_least(name, getattr(self, name), 0)
        if not 0 <= self.max_bad_fraction <= 1:
            raise OptionError(f"max_bad_fraction is {self.max_bad_fraction}. It must be from 0 to 1.")
        if self.seed >= 2**31:
            raise OptionError(f"seed is {self.seed}. It must be below {2**31}.")
        at_least("pictures_every", self.pictures_every, 0)
        for name, least in (("every", 0), ("max_samples", 1), ("neighbours", 1)):
            at_least(f"probe.{name}", getattr(self.probe, name), least)
        at_least("data.num_workers", self.data.num_workers, 0)
        at_least("data.prefetch", self.data.prefetch, 1)
        at_least("data.shuffle_buffer", self.data.shuffle_buffer, 1)
        for name in ("min_lr", "warmup", "hold", "eps", "weight_decay", "max_grad_norm"):
            at_least(f"optim.{name}", getattr(self.optim, name), 0)
        if not 0 < self.batch_scale < math.inf:
            raise OptionError(f"batch_scale is {self.batch_scale}. It must be a positive number.")
        at_least("optim.local_encoder_lr", self.optim.local_encoder_lr, 0)
        if not 0 < self.optim.lr < math.inf:
            raise OptionError(f"optim.lr is {self.optim.lr}. It must be a positive number.")
        at_least("optim.schedule_steps", self.optim.schedule_steps, 1)
        if self.text is not None:
            at_least("text.tokenizer_documents", self.text.tokenizer_documents, 1)
