"""Options of the fine-tuning program for arrays."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d2v_train.finetuning.arguments import (
    ClassArguments,
    FinetuningArguments,
    MediaDataArguments,
    ModelArguments,
    option,
    with_defaults,
)
from d2v_train.options.errors import OptionError, share


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset


@dataclass
class ArrayModelArguments(ModelArguments):
    """Model to start from and its regularisation; None keeps the value of the checkpoint."""

    hidden_dropout: float | None = option(None, "Dropout after attention and feed-forward layers.")
    attention_dropout: float | None = option(None, "Dropout of the attention weights.")
    activation_dropout: float | None = option(None, "Dropout inside the feed-forward layers.")
    layerdrop: float | None = option(None, "Probability of dropping a block in an update.")
    classifier_dropout: float | None = option(None, "Dropout before the classifier.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in dataclasses.fields(self):
            if field.name.endswith(("dropout", "layerdrop")):
                share(f"--{field.name}", getattr(self, field.name), below=True)

    def fields(self) -> dict[str, Any]:
        """Return the overrides of the model configuration for `load_config`."""
        shared = {name: getattr(self, name) for name in ("attention_dropout", "activation_dropout", "layerdrop")}
        shared |= {"hidden_dropout": self.hidden_dropout, "mlp_dropout": self.hidden_dropout}
        return shared | {"arrays_config": {"classifier_dropout": self.classifier_dropout}}


@dataclass
class ArrayDataArguments(ClassArguments, MediaDataArguments):
    """Arrays for training, evaluation and prediction."""

    modality = "arrays"
    input_column = "array_column"
    decoding = ("channels_first",)

    array_column: list[str] | None = option(None, "Column of the arrays, or several, the channels; default: found.")
    channels_first: bool = option(False, "The channels are the first side of an array instead of its last.")
    group_column: str | None = option(None, "Column of the subject or device; default: found by its name.")
    exclude_groups: list[str] | None = option(None, "Groups, such as subjects, to exclude from training.")
    only_groups: list[str] | None = option(None, "Groups, such as subjects, to restrict the evaluation to.")
    crop_length: list[int] | None = option(
        None,
        "Crop to this length, or these sides: at random in training, at the centre else; default: the model's.",
    )
    jitter: float = option(0.0, "Deviation of the noise added in training, in units of the standardised values.")
    scaling: float = option(0.0, "Deviation of the logarithm of a random factor of each channel in training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop_length is not None and min(self.crop_length, default=0) < 1:
            raise OptionError(f"--crop_length is {self.crop_length}. It must be one or several whole numbers above 0.")
        for name in ("jitter", "scaling"):
            if not 0 <= getattr(self, name) <= 10:
                raise OptionError(f"--{name} is {getattr(self, name)}. It must be from 0 to 10.")

    @property
    def may_hold_out(self) -> bool:
        return super().may_hold_out and self.only_groups is None

    def open(self, part: str, **options: Any) -> RawDataset:
        groups = {"exclude_groups": self.exclude_groups} if part == "train" else {"only_groups": self.only_groups}
        return super().open(part, group_column=self.group_column, **groups, **options)


@with_defaults(
    num_train_epochs=20.0,
    learning_rate=3e-4,
    lr_scheduler_type="cosine",
    warmup_steps=1 / 6,
    adam_beta2=0.98,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=64,
    greater_is_better=True,
)
class ArrayTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the defaults of this program."""

    main_metric = "accuracy"
