"""Options shared by the fine-tuning programs: model, data and training.

The options of a program are dataclasses. `title` of a class is the group of its options in `--help`; help lines and
defaults come from the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainingArguments

from d2v_train.options.errors import OptionError, at_least
from modeling_d2v.sharing.places import model_place


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset


PARTS = ("train", "validation", "test")


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
            if getattr(self, name) is not None:
                setattr(self, name, model_place(getattr(self, name)))

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
    """

    modality: ClassVar[str]
    input_column: ClassVar[str]

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
        options = {"column": getattr(self, self.input_column), **options}
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
    """Options for the classes of images or recordings, to combine with `MediaDataArguments`."""

    label_column: str | None = option(None, "Column of the class; default: found by its name.")
    train_fraction: float = option(1.0, "Share of each class to train on, drawn with --seed.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("train_fraction", self.train_fraction, whole=True)


@dataclass
class FinetuningArguments(TrainingArguments):
    """`TrainingArguments` with further options for fine-tuning data2vec."""

    title: ClassVar[str] = "this task"

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
    hub_strategy: str = option("end", "When --push_to_hub uploads: end, the finished model only.")

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("Name the folder of the run with --output_dir.")
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
