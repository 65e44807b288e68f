"""What may be set of a speech model when it is fine-tuned, beside where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from recipes.common.finetuning import ModelArguments


SHARED = ("attention_dropout", "activation_dropout", "layerdrop")
AUDIO = (
    "feat_proj_dropout",
    "apply_spec_augment",
    "mask_time_prob",
    "mask_time_length",
    "mask_time_min_masks",
    "mask_feature_prob",
    "mask_feature_length",
    "mask_feature_min_masks",
)


@dataclass
class SpeechModelArguments(ModelArguments):
    """Which model to start from, and how it is regularised."""

    freeze_feature_encoder: bool = field(
        default=True, metadata={"help": "Keep the convolutions over the waveform as they are."}
    )
    hidden_dropout: float | None = field(
        default=None, metadata={"help": "Dropout after attention and feed-forward part; default: the checkpoint's."}
    )
    attention_dropout: float | None = field(default=None, metadata={"help": "Likewise of the attention weights."})
    activation_dropout: float | None = field(default=None, metadata={"help": "Likewise inside the feed-forward part."})
    feat_proj_dropout: float | None = field(default=None, metadata={"help": "Likewise after the convolutions."})
    layerdrop: float | None = field(default=None, metadata={"help": "Chance that a block is left out of an update."})
    apply_spec_augment: bool | None = field(
        default=None, metadata={"help": "Hide spans of time and of channels in training; false switches both off."}
    )
    mask_time_prob: float | None = field(default=None, metadata={"help": "Share of frames in hidden spans."})
    mask_time_length: int | None = field(default=None, metadata={"help": "Frames in a span."})
    mask_time_min_masks: int | None = field(default=None, metadata={"help": "Least number of spans."})
    mask_feature_prob: float | None = field(default=None, metadata={"help": "Share of channels in hidden spans."})
    mask_feature_length: int | None = field(default=None, metadata={"help": "Channels in a span."})
    mask_feature_min_masks: int | None = field(default=None, metadata={"help": "Least number of such spans."})

    def overrides(self, **audio: Any) -> dict[str, Any]:
        """Arguments of `load_config`.

        Args:
            audio: further fields of the audio configuration.
        """
        fields = {name: getattr(self, name) for name in SHARED}
        fields |= {"hidden_dropout": self.hidden_dropout, "mlp_dropout": self.hidden_dropout}
        return {**fields, "audio_config": {name: getattr(self, name) for name in AUDIO} | audio}
