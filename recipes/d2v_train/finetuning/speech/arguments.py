"""Options that both programs for speech share: how the model is regularised, which recordings are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from d2v_train.finetuning.arguments import MediaDataArguments, ModelArguments, option


if TYPE_CHECKING:
    from d2v_train.data.records import RawDataset


@dataclass
class SpeechModelArguments(ModelArguments):
    """Which model to start from, and how it is regularised; None leaves what the checkpoint says.

    Attributes:
        head: options of a class below that are fields of the audio configuration.
    """

    head: ClassVar[tuple[str, ...]] = ()

    freeze_feature_encoder: bool = option(True, "Keep the convolutions over waveform or spectrogram as they are.")
    hidden_dropout: float | None = option(None, "Dropout after attention and feed-forward part.")
    attention_dropout: float | None = option(None, "Dropout of the attention weights.")
    activation_dropout: float | None = option(0.1, "Dropout inside the feed-forward part.")
    feat_proj_dropout: float | None = option(None, "Dropout after the convolutions; default: the checkpoint's.")
    layerdrop: float | None = option(0.1, "Chance that a block is left out of an update.")
    apply_spec_augment: bool | None = option(None, "Hide spans of time and channels in training; false: neither.")
    mask_time_prob: float | None = option(None, "Share of frames in hidden spans.")
    mask_time_length: int | None = option(None, "Frames in a span.")
    mask_time_min_masks: int | None = option(None, "Least number of spans; default: the checkpoint's.")
    mask_feature_prob: float | None = option(None, "Share of channels in hidden spans.")
    mask_feature_length: int | None = option(None, "Channels in a span; default: the checkpoint's.")
    mask_feature_min_masks: int | None = option(None, "Least number of such spans; default: the checkpoint's.")

    def fields(self) -> dict[str, Any]:
        """Return what the options set in the configuration of the model, as `load_config` takes it."""
        fields = {name: getattr(self, name) for name in ("attention_dropout", "activation_dropout", "layerdrop")}
        fields |= {"hidden_dropout": self.hidden_dropout, "mlp_dropout": self.hidden_dropout}
        audio = [name for name in vars(self) if name.startswith("mask_")]
        audio += ["feat_proj_dropout", "apply_spec_augment", *self.head]
        return fields | {"audio_config": {name: getattr(self, name) for name in audio}}


@dataclass
class SpeechDataArguments(MediaDataArguments):
    """Which recordings to train on, to evaluate on and to predict."""

    modality = "audio"
    input_column = "audio_column"

    audio_column: str | None = option(None, "Column of the audio; default: found by its type.")
    group_column: str | None = option(None, "Column of the speaker; default: a usual name.")
    exclude_groups: list[str] | None = option(None, "Speakers (or other groups) to leave out of training.")
    only_groups: list[str] | None = option(None, "Speakers (or other groups) to evaluate on, and no others.")

    @property
    def may_hold_out(self) -> bool:
        return super().may_hold_out and self.only_groups is None

    def open(self, part: str, **options: Any) -> RawDataset:
        groups = {"exclude_groups": self.exclude_groups} if part == "train" else {"only_groups": self.only_groups}
        return super().open(part, group_column=self.group_column, **groups, **options)


@dataclass
class CTCDataArguments(SpeechDataArguments):
    """Which recordings and transcripts to train on, to evaluate on and to predict."""

    text_column: str | None = option(None, "Column of the transcripts; default: a usual name.")
    do_lower_case: bool = option(False, "Small letters instead of capitals; a given vocabulary tells by itself.")
    chars_to_ignore: list[str] = option([], "Characters to leave out of the transcripts, such as , . ? !")
    min_duration_in_seconds: float = option(0.0, "Train on no shorter recordings.")
    max_duration_in_seconds: float = option(30.0, "Train on no longer recordings.")

    def open(self, part: str, **options: Any) -> RawDataset:
        """Open "train", "validation" or "test" with its transcripts; recordings to test on need none."""
        from d2v_train.data.tables import TRANSCRIPT_COLUMNS, ColumnNotFoundError

        try:
            return super().open(part, text_column=self.text_column or TRANSCRIPT_COLUMNS, **options)
        except ColumnNotFoundError as error:
            if part != "test" or self.text_column or error.role != "transcript":
                raise
            return super().open(part, **options)
