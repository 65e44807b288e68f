"""Options shared by the programs for speech: regularisation of the model and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from d2v_train.finetuning.arguments import MediaDataArguments, ModelArguments, option


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset


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
    do_lower_case: bool = option(False, "Use lower case instead of upper case, unless a vocabulary is given.")
    chars_to_ignore: list[str] = option([], "Characters to remove from the transcripts, such as , . ? !")
    min_duration_in_seconds: float = option(0.0, "Exclude shorter recordings from training.")
    max_duration_in_seconds: float = option(30.0, "Exclude longer recordings from training.")

    def open(self, part: str, **options: Any) -> RawDataset:
        """Open the "train", "validation" or "test" data with transcripts, which are optional for "test"."""
        from d2v_train.data.tables import TRANSCRIPT_COLUMNS, ColumnNotFoundError

        try:
            return super().open(part, text_column=self.text_column or TRANSCRIPT_COLUMNS, **options)
        except ColumnNotFoundError as error:
            if part != "test" or self.text_column or error.role != "transcript":
                raise
            return super().open(part, **options)
