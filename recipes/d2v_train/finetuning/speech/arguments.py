"""Options of the programs for speech: regularisation of the model, data, settings of the training."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from d2v_train.finetuning.arguments import (
    ClassArguments,
    FinetuningArguments,
    MediaDataArguments,
    ModelArguments,
    option,
    with_defaults,
)
from d2v_train.finetuning.speech.casing import CASES, check_language
from d2v_train.options.errors import OptionError, at_least, choice, share


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset

TOKEN_UNITS = ("character", "phoneme")
"""What a token of a transcript may be."""


@dataclass
class SpeechModelArguments(ModelArguments):
    """Model to start from and its regularisation; None keeps the value of the checkpoint.

    Attributes:
        head: Options of a subclass that are fields of the audio configuration.
    """

    head: ClassVar[tuple[str, ...]] = ()

    freeze_feature_encoder: bool = option(True, "Freeze the convolutions over waveform or spectrogram.")
    hidden_dropout: float | None = option(None, "Dropout after attention and feed-forward layers.")
    attention_dropout: float | None = option(None, "Dropout of the attention weights.")
    activation_dropout: float | None = option(0.1, "Dropout inside the feed-forward layers.")
    feat_proj_dropout: float | None = option(None, "Dropout after the convolutions; default: the checkpoint's.")
    layerdrop: float | None = option(0.1, "Probability of dropping a block in an update.")
    apply_spec_augment: bool | None = option(None, "Mask spans of time and channels in training; false: neither.")
    mask_time_prob: float | None = option(None, "Share of frames in masked spans.")
    mask_time_length: int | None = option(None, "Number of frames in a span.")
    mask_time_min_masks: int | None = option(None, "Minimum number of frame spans; default: the checkpoint's.")
    mask_feature_prob: float | None = option(None, "Share of channels in masked spans.")
    mask_feature_length: int | None = option(None, "Number of channels in a span; default: the checkpoint's.")
    mask_feature_min_masks: int | None = option(None, "Minimum number of channel spans; default: the checkpoint's.")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [field.name for field in dataclasses.fields(self)]
        for name in names:
            if name.endswith(("dropout", "layerdrop", "_prob")):
                share(f"--{name}", getattr(self, name), below=True)
            elif name.endswith(("_length", "_proj_size")):
                at_least(f"--{name}", getattr(self, name), 1)
            elif name.endswith("_min_masks"):
                at_least(f"--{name}", getattr(self, name), 0)

    def fields(self) -> dict[str, Any]:
        """Return the overrides of the model configuration for `load_config`."""
        fields = {name: getattr(self, name) for name in ("attention_dropout", "activation_dropout", "layerdrop")}
        fields |= {"hidden_dropout": self.hidden_dropout, "mlp_dropout": self.hidden_dropout}
        audio = [name for name in vars(self) if name.startswith("mask_")]
        audio += ["feat_proj_dropout", "apply_spec_augment", *self.head]
        return fields | {"audio_config": {name: getattr(self, name) for name in audio}}


@dataclass
class SpeechDataArguments(MediaDataArguments):
    """Recordings for training, evaluation and prediction."""

    modality = "audio"
    input_column = "audio_column"
    decoding = ("sampling_rate",)

    audio_column: str | None = option(None, "Column of the audio; default: found by its type.")
    sampling_rate: int | None = option(None, "Rate in Hz of recordings stored as arrays of samples without it.")
    group_column: str | None = option(None, "Column of the speaker; default: found by its name.")
    exclude_groups: list[str] | None = option(None, "Speakers (or other groups) to exclude from training.")
    only_groups: list[str] | None = option(None, "Speakers (or other groups) to restrict the evaluation to.")

    @property
    def may_hold_out(self) -> bool:
        return super().may_hold_out and self.only_groups is None

    def open(self, part: str, **options: Any) -> RawDataset:
        groups = {"exclude_groups": self.exclude_groups} if part == "train" else {"only_groups": self.only_groups}
        return super().open(part, group_column=self.group_column, **groups, **options)


@dataclass
class CTCDataArguments(SpeechDataArguments):
    """Recordings and transcripts for training, evaluation and prediction."""

    text_column: str | None = option(None, "Column of the transcripts; default: found by its name.")
    unit: str | None = option(
        None,
        "What a token is: character, or phoneme (phonemes are separated by spaces, words by the word delimiter); "
        "default: that of the vocabulary, character for a new one.",
    )
    case: str | None = option(
        None,
        "Case of the transcripts: keep, lower or upper; default: that of the vocabulary; for a new one upper, of "
        "phonemes keep.",
    )
    language: str | None = option(None, "Code of the language whose rules of case apply, such as tr for Turkish.")
    word_delimiter: str | None = option(None, "Token between words; default: that of the vocabulary, | for a new one.")
    chars_to_ignore: list[str] = option([], "Characters to remove from the transcripts, such as , . ? !")
    min_duration_in_seconds: float = option(0.0, "Exclude shorter recordings from training.")
    max_duration_in_seconds: float = option(30.0, "Exclude longer recordings from training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid in (("unit", TOKEN_UNITS), ("case", tuple(CASES))):
            if getattr(self, name) is not None:
                choice(f"--{name}", getattr(self, name), valid)
        check_language(self.language)
        if self.word_delimiter is not None and (len(self.word_delimiter) != 1 or self.word_delimiter.isspace()):
            raise OptionError(f"--word_delimiter is {self.word_delimiter!r}. It must be one character, not a space.")
        wordy = [entry for entry in self.chars_to_ignore if len(entry) > 1 and any(map(str.isalnum, entry))]
        if wordy:
            raise OptionError(
                f"--chars_to_ignore has {wordy[0]!r}, all characters of which would go. Give single ones."
            )
        least, most = self.min_duration_in_seconds, self.max_duration_in_seconds
        at_least("--min_duration_in_seconds", least, 0)
        if not most > max(least, 0):  # comparisons with NaN are false
            raise OptionError(
                f"--max_duration_in_seconds is {most}. It must be above 0 and above --min_duration_in_seconds {least}."
            )

    def open(self, part: str, **options: Any) -> RawDataset:
        """Open the "train", "validation" or "test" data with transcripts, which are optional for "test"."""
        from d2v_train.data.tables import TRANSCRIPT_COLUMNS, ColumnNotFoundError

        try:
            return super().open(part, text_column=self.text_column or TRANSCRIPT_COLUMNS, **options)
        except ColumnNotFoundError as error:
            if part != "test" or self.text_column or error.role != "transcript":
                raise
            return super().open(part, **options)


@with_defaults(hidden_dropout=0.0, attention_dropout=0.0, mask_time_prob=0.65, mask_feature_prob=0.5)
class CTCModelArguments(SpeechModelArguments):
    """Model to start from and its regularisation."""

    head = ("final_dropout", "ctc_loss_reduction", "ctc_zero_infinity")

    final_dropout: float | None = option(None, "Dropout before the output layer.")
    ctc_loss_reduction: str | None = option(None, "mean or sum; default: the checkpoint's.")
    ctc_zero_infinity: bool | None = option(None, "Set the loss of transcripts without an alignment to 0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ctc_loss_reduction is not None:
            choice("--ctc_loss_reduction", self.ctc_loss_reduction, ("mean", "sum"))


@with_defaults(
    learning_rate=3e-5,
    tri_stage="0.1,0.4,0.5",
    adam_beta2=0.98,
    max_grad_norm=0.0,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=16,
    train_sampling_strategy="group_by_length",
    greater_is_better=False,
)
class CTCTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the published settings."""

    main_metric = "wer"

    max_steps: int = option(-1, "Number of updates; default: 80,000 if num_train_epochs is not given.")
    num_train_epochs: float | None = option(None, "Number of passes over the data, instead of max_steps.")

    def __post_init__(self) -> None:
        if self.num_train_epochs is None:
            self.max_steps = 80_000 if self.max_steps == -1 else self.max_steps
            self.num_train_epochs = 1.0
        elif self.max_steps != -1:
            raise OptionError(
                f"--max_steps {self.max_steps} and --num_train_epochs {self.num_train_epochs} are two lengths of one "
                "run. Give one of them."
            )
        super().__post_init__()


@with_defaults(
    hidden_dropout=0.1, attention_dropout=0.2, mask_time_prob=0.6, mask_time_length=5, mask_feature_prob=0.0
)
class ClassifierArguments(SpeechModelArguments):
    """Model to start from and its regularisation."""

    head = ("use_weighted_layer_sum", "classifier_proj_size")

    use_weighted_layer_sum: bool | None = option(None, "Classify a learned average of all blocks, not the last one.")
    classifier_proj_size: int | None = option(None, "Width of the projection before the classifier.")


@dataclass
class ClassDataArguments(ClassArguments, SpeechDataArguments):
    """Recordings for training, evaluation and prediction."""

    max_length_seconds: float = option(20.0, "Crop longer recordings to this length in training.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_length_seconds < math.inf:
            raise OptionError(f"--max_length_seconds is {self.max_length_seconds}. It must be above 0.")


@with_defaults(
    num_train_epochs=5.0,
    learning_rate=3e-5,
    lr_scheduler_type="cosine",
    warmup_steps=1 / 6,
    adam_beta2=0.98,
    per_device_train_batch_size=32,
    per_device_eval_batch_size=32,
    greater_is_better=True,
)
class ClassTrainingArguments(FinetuningArguments):
    """`FinetuningArguments` with the defaults of this program."""

    main_metric = "accuracy"
