"""Options shared by the fine-tuning programs: model, data and training.

The options of a program are dataclasses. `title` of a class is the group of its options in `--help`; help lines and
defaults come from the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers.training_args import TrainingArguments  # the help reads its source there

from d2v_train.options.errors import OptionError, at_least, choice, share
from modeling_d2v.sharing.places import model_place


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset


PARTS = ("train", "validation", "test")
LEAST = {
    **dict.fromkeys(
        "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps save_total_limit "
        "early_stopping_patience eval_accumulation_steps torch_empty_cache_steps dataloader_prefetch_factor "
        "ddp_timeout".split(),
        1,
    ),
    **dict.fromkeys(
        "learning_rate weight_decay adam_epsilon max_grad_norm warmup_steps seed data_seed dataloader_num_workers "
        "freeze_encoder_steps early_stopping_threshold logging_steps eval_steps save_steps eval_delay "
        "neftune_noise_alpha".split(),
        0,
    ),
}
"""Smallest values of the options of `FinetuningArguments` that are numbers without an upper bound."""
SHARES = {"adam_beta1": True, "adam_beta2": True, "label_smoothing_factor": True, "max_bad_fraction": False}
"""Options of `FinetuningArguments` from 0 to 1, and whether 1 is too much."""
MULTI_LABEL_METRICS = ("mean_average_precision", "micro_f1", "macro_f1", "exact_match")
"""Names of the metrics of samples with several classes; the first selects the best checkpoint."""
ALONE = {
    "tokenizer_name": ("tokenizer_config.json", "tokenizer.json", "vocab.json"),
    "processor_name": ("preprocessor_config.json", "processor_config.json"),
}
"""Files that make a folder a tokenizer or a processor, by the option that names it."""
SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
"""Values of `problem_type` for one class per sample and for any number."""
REGRESSION = "regression"
"""Value of `problem_type` for scores."""


def option(default: Any, help: str) -> Any:
    """Return a dataclass field for an option with a default and a line for `--help`."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def with_defaults(**defaults: Any) -> Callable[[type], type]:
    """Make the decorated class a dataclass with other defaults for inherited options; their help is kept.

    Args:
        defaults: Default by option name.
    """

    def decorate(cls: type) -> type:
        for name, default in defaults.items():
            inherited = cls.__dataclass_fields__[name]
            cls.__annotations__[name] = inherited.type
            setattr(cls, name, field(default=default, metadata=inherited.metadata))
        return dataclass(cls)

    return decorate


def check_one_class_options(args: FinetuningArguments, smoothing: bool = False) -> None:
    """Check the options of a run on samples with several classes.

    Args:
        args: Options.
        smoothing: Whether labels can be smoothed.

    Raises:
        OptionError: If one makes sense with one class per sample alone.
    """
    metric = args.metric_for_best_model
    if not args.takes_main_metric and metric.removeprefix("eval_") in ("accuracy", "top_5_accuracy"):
        raise OptionError(
            f"--metric_for_best_model is {metric}, but samples with several classes have "
            f"{', '.join(MULTI_LABEL_METRICS)} and loss."
        )
    if args.label_smoothing_factor and not smoothing:
        raise OptionError(
            f"--label_smoothing_factor is {args.label_smoothing_factor}, but it needs one class per sample."
        )


def check_share(name: str, value: float, whole: bool = False) -> None:
    """Check that an option is a share between 0 and 1.

    Args:
        name: Name of the option.
        value: Value of the option.
        whole: Whether 1 is allowed.

    Raises:
        OptionError: If the value is out of range.
    """
    if not (0 < value < 1 or (whole and value == 1)):
        raise OptionError(f"--{name} is {value}; it must be above 0 and {'at most' if whole else 'below'} 1.")


@dataclass
class ModelArguments:
    """Which model to start from."""

    title: ClassVar[str] = "model"

    model_name_or_path: str | None = option(None, "Checkpoint to start from: a folder or a name on the Hub.")
    config_name: str | None = option(None, "Configuration to use instead of the checkpoint's: folder, name or preset.")
    tokenizer_name: str | None = option(None, "Tokenizer to use instead of the checkpoint's.")
    processor_name: str | None = option(None, "Feature extractor or image processor instead of the checkpoint's.")
    from_scratch: bool = option(False, "Start from random weights instead of the checkpoint's, as a baseline.")
    cache_dir: str | None = option(None, "Folder for downloads.")
    model_revision: str = option("main", "Branch, tag or commit on the Hub.")
    token: str | None = option(None, "Access token of the Hub; default: the stored one.")
    trust_remote_code: bool = option(False, "Run the code beside a checkpoint instead of the installed package.")
    ignore_mismatched_sizes: bool = option(False, "Replace the head of a checkpoint with another number of classes.")

    def __post_init__(self) -> None:
        if self.model_name_or_path is None and (self.config_name is None or not self.from_scratch):
            raise ValueError(
                "Name the checkpoint to start from with --model_name_or_path, or a configuration with --config_name "
                "and --from_scratch for random weights."
            )
        for name in ("model_name_or_path", "tokenizer_name", "processor_name"):
            given = getattr(self, name)
            # A tokenizer or a processor may lie in a folder without a model.
            alone = any((Path(given or "").expanduser() / file).is_file() for file in ALONE.get(name, ()))
            if given is not None and not alone:
                setattr(self, name, model_place(given))

    @property
    def hub_options(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained` of this run."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }

    @property
    def finetuned_from(self) -> str | None:
        """Checkpoint of the initial weights; None for random weights."""
        return None if self.from_scratch else self.model_name_or_path


@dataclass
class DataArguments:
    """Data for training, evaluation and prediction."""

    title: ClassVar[str] = "data"
    place: ClassVar[str] = "dir"
    """Suffix of the options that name the data of one split: "dir" for --train_dir, "file" for --train_file."""

    dataset_name: str | None = option(None, "Folder, file or name on the Hub with all splits.")
    dataset_config_name: str | None = option(None, "Configuration on the Hub, or sub-folder of a local data set.")
    train_split: str = option("train", "Split to train on; several as in train.100+train.360.")
    validation_split: str = option("validation", "Split to evaluate on; if it does not exist, see train_val_split.")
    test_split: str = option("test", "Split for --do_predict.")
    train_val_split: float = option(0.15, "Share of the training data to hold out if there is no validation split.")
    max_train_samples: int | None = option(None, "Maximum number of training samples, a fixed random subset.")
    max_eval_samples: int | None = option(None, "Maximum number of samples to evaluate on.")
    max_predict_samples: int | None = option(None, "Maximum number of samples to predict.")

    def __post_init__(self) -> None:
        for name in ("max_train_samples", "max_eval_samples", "max_predict_samples"):
            at_least(f"--{name}", getattr(self, name), 1)
        check_share("train_val_split", self.train_val_split)

    def check_run(self, args: FinetuningArguments) -> None:
        """Check that the data for what a run does is named.

        Raises:
            OptionError: If it is not.
        """
        asked = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
        for part, option_name in zip(PARTS, ("do_train", "do_eval", "do_predict"), strict=True):
            named = self.dataset_name is not None or self.own_source(part) is not None
            held_out = part == "validation" and args.do_train and self.may_hold_out
            if asked[part] and not named and not held_out:
                raise OptionError(
                    f"--{option_name} needs {part} data: name it with --{part}_{self.place}, or all data with "
                    "--dataset_name."
                )

    def own_source(self, part: str) -> str | None:
        """Return the separate source of "train", "validation" or "test", None if there is none."""
        return getattr(self, f"{part}_{self.place}")

    def split_of(self, part: str) -> str:
        """Return the name of the split for "train", "validation" or "test"."""
        return getattr(self, f"{part}_split")

    @property
    def described(self) -> str | None:
        """Name of the data for messages and the model card; None if no data is named."""
        return next((name for name in (self.dataset_name, *map(self.own_source, PARTS)) if name), None)

    @property
    def may_hold_out(self) -> bool:
        """Whether a missing validation split may be held out of the training data: no other one was requested."""
        return self.validation_split == "validation" and self.own_source("validation") is None


@dataclass
class MediaDataArguments(DataArguments):
    """Images or recordings for training, evaluation and prediction.

    Attributes:
        modality: "vision" or "audio".
        input_column: Name of the option for the input column.
        decoding: Names of the options that are fields of `SourceSettings` and say how inputs are decoded.
    """

    modality: ClassVar[str]
    input_column: ClassVar[str]
    decoding: ClassVar[tuple[str, ...]] = ()

    train_dir: str | None = option(None, "Folder or file of the training data, if it is not part of dataset_name.")
    validation_dir: str | None = option(None, "Folder or file of the data to evaluate on.")
    test_dir: str | None = option(None, "Folder or file of the data to predict.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.described is None:
            raise ValueError(
                'Name the data with --dataset_name ("builtin" for the built-in data), or with --train_dir and '
                "--validation_dir."
            )

    def open(self, part: str, **options: Any) -> RawDataset:
        """Open the "train", "validation" or "test" data.

        Args:
            part: One of these three.
            options: Further arguments of `open_dataset`.

        Raises:
            SplitNotFoundError: If the data does not exist.
            ColumnNotFoundError, UnclearColumnError: If a column is missing or ambiguous.
        """
        from d2v_train.data.records import open_dataset
        from d2v_train.data.tables import SplitNotFoundError, column_named_by

        own = self.own_source(part)
        source = own or self.dataset_name
        if source is None:
            raise SplitNotFoundError(f"No {part} data is named: set --{part}_dir or --dataset_name.")
        if own is None and self.dataset_config_name:
            source = f"{source}:{self.dataset_config_name}"
        decoding = {name: getattr(self, name) for name in self.decoding}
        options = {"column": getattr(self, self.input_column), **decoding, **options}
        with column_named_by(f"--{self.input_column}"):
            try:
                return open_dataset(self.modality, source, self.split_of(part), **options)
            except SplitNotFoundError:
                if own is None or self.split_of(part) != part:
                    raise
                # In a separate folder, the only split needs no name.
                return open_dataset(self.modality, source, "train", **options)


@dataclass
class ClassArguments:
    """Options for the classes of images or recordings, to combine with `MediaDataArguments`.

    Attributes:
        smooths_flags: Whether labels of several classes can be smoothed.
    """

    smooths_flags: ClassVar[bool] = False

    label_column: str | None = option(None, "Column of the class or classes; default: found by its name.")
    problem_type: str | None = option(
        None, f"{SINGLE_LABEL} or {MULTI_LABEL}, in which a sample has any number of classes; default: by the labels."
    )
    threshold: float = option(0.5, "Probability from which a class is assigned if there may be several.")
    train_fraction: float = option(1.0, "Share of each class to train on, drawn with --seed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("train_fraction", self.train_fraction, whole=True)
        check_share("threshold", self.threshold)
        if self.problem_type is not None:
            choice("--problem_type", self.problem_type, (SINGLE_LABEL, MULTI_LABEL))
        if self.problem_type == SINGLE_LABEL and self.threshold != 0.5:
            raise OptionError(f"--threshold is {self.threshold}, but with {SINGLE_LABEL} the best class is assigned.")

    def check_run(self, args: FinetuningArguments) -> None:
        super().check_run(args)
        if self.problem_type == MULTI_LABEL:
            check_one_class_options(args, self.smooths_flags)


@dataclass
class FinetuningArguments(TrainingArguments):
    """`TrainingArguments` with further options for fine-tuning data2vec."""

    title: ClassVar[str] = "this task"
    main_metric: ClassVar[str | None] = None
    """Metric that selects the best checkpoint if --metric_for_best_model is not given; a task may take another."""

    output_dir: str | None = option(None, "Folder of the run.")
    # A loss that is not finite must show in the log.
    logging_nan_inf_filter: bool = option(False, "Leave losses that are not finite out of the log.")
    layer_decay: float = option(1.0, "Factor of the learning rate from each layer to the one below; 1 = off.")
    freeze_encoder_steps: int = option(0, "Number of updates at the start that train only the head.")
    tri_stage: str | None = option(
        None, "Shares of warm-up, hold and decay, such as 0.1,0.4,0.5, instead of --lr_scheduler_type; or none."
    )
    weights_ema_decay: float | None = option(None, "Evaluate and save a moving average of the weights, this decay.")
    early_stopping_patience: int | None = option(None, "Stop after this many evaluations without improvement.")
    early_stopping_threshold: float = option(0.0, "Smallest change that counts as an improvement.")
    max_bad_fraction: float = option(0.05, "Stop if more than this share of the samples is broken.")
    hub_license: str | None = option(None, "Licence of the uploaded weights; default: that of the checkpoint.")
    hub_strategy: str = option("end", "When --push_to_hub uploads: end, the finished model only.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("Name the folder of the run with --output_dir.")
        self.takes_main_metric = self.metric_for_best_model is None
        if self.metric_for_best_model is None:
            self.metric_for_best_model = self.main_metric
        for name, least in LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int | float):
                at_least(f"--{name}", value, least)
        for name, below in SHARES.items():
            share(f"--{name}", getattr(self, name), below)
        if self.max_steps < 1 and self.max_steps != -1:
            raise OptionError(f"--max_steps is {self.max_steps}. It must be at least 1, or -1 for --num_train_epochs.")
        if not 0 < self.num_train_epochs < math.inf:
            raise OptionError(f"--num_train_epochs is {self.num_train_epochs}. It must be above 0.")
        if str(getattr(self.hub_strategy, "value", self.hub_strategy)) != "end":
            raise OptionError(
                f"--hub_strategy is {self.hub_strategy}, but only the finished model is uploaded: checkpoints hold "
                "optimizer states and paths of this machine. Leave it out."
            )
        check_share("layer_decay", self.layer_decay, whole=True)
        if self.weights_ema_decay is not None:
            check_share("weights_ema_decay", self.weights_ema_decay)
        self.tri_stage_phases = self._phases()
        if self.ddp_find_unused_parameters is None:
            # Every parameter takes part in every step, including those of dropped blocks. Only while the encoder is
            # frozen, some get no gradient, and processes must not wait for one.
            self.ddp_find_unused_parameters = self.freeze_encoder_steps > 0
        if self.early_stopping_patience is not None:
            if "no" in (self.eval_strategy, self.save_strategy):
                raise ValueError(
                    "--early_stopping_patience needs --eval_strategy and --save_strategy: both epoch, or both steps."
                )
            self.load_best_model_at_end = True
        super().__post_init__()
        # Pinned memory needs an accelerator; without one torch warns at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"

    def _phases(self) -> tuple[float, float, float] | None:
        if self.tri_stage is None or self.tri_stage.lower() in ("", "none"):
            self.tri_stage = None
            return None
        try:
            phases = tuple(float(share) for share in self.tri_stage.split(","))
        except ValueError:
            phases = ()
        if len(phases) != 3 or min(phases) < 0 or abs(sum(phases) - 1) > 1e-6:
            raise ValueError(
                f"--tri_stage is {self.tri_stage!r}; it must be three shares that sum to 1, such as 0.1,0.4,0.5."
            )
        return phases
