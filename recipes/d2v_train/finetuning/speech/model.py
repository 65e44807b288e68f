"""What may be set of a speech model when it is fine-tuned, and the model that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.models import load_config, load_model
from modeling_d2v import Data2VecConfig


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
    """Which model to start from, and how it is regularised.

    Attributes:
        head: further fields of a class below that are fields of the audio configuration.
    """

    head: ClassVar[tuple[str, ...]] = ()

    freeze_feature_encoder: bool = field(
        default=True, metadata={"help": "Keep the convolutions over the waveform as they are."}
    )
    hidden_dropout: float | None = field(
        default=None, metadata={"help": "Dropout after attention and feed-forward part; default: the checkpoint's."}
    )
    attention_dropout: float | None = field(default=None, metadata={"help": "Likewise of the attention weights."})
    activation_dropout: float | None = field(default=0.1, metadata={"help": "Likewise inside the feed-forward part."})
    feat_proj_dropout: float | None = field(default=None, metadata={"help": "Likewise after the convolutions."})
    layerdrop: float | None = field(default=0.1, metadata={"help": "Chance that a block is left out of an update."})
    apply_spec_augment: bool | None = field(
        default=None, metadata={"help": "Hide spans of time and of channels in training; false switches both off."}
    )
    mask_time_prob: float | None = field(default=None, metadata={"help": "Share of frames in hidden spans."})
    mask_time_length: int | None = field(default=None, metadata={"help": "Frames in a span."})
    mask_time_min_masks: int | None = field(default=None, metadata={"help": "Least number of spans."})
    mask_feature_prob: float | None = field(default=None, metadata={"help": "Share of channels in hidden spans."})
    mask_feature_length: int | None = field(default=None, metadata={"help": "Channels in a span."})
    mask_feature_min_masks: int | None = field(default=None, metadata={"help": "Least number of such spans."})

    def configure(self, audio: dict[str, Any] | None = None, **fields: Any) -> Data2VecConfig:
        """The model's configuration with the regularisation of this run.

        Args:
            audio: further fields of the audio configuration.
            fields: further fields of the whole.

        Raises:
            ValueError: if it has no speech.
        """
        fields |= {name: getattr(self, name) for name in SHARED}
        fields |= {"hidden_dropout": self.hidden_dropout, "mlp_dropout": self.hidden_dropout}
        settings = {name: getattr(self, name) for name in (*AUDIO, *self.head)}
        config = load_config(self, **fields, audio_config=settings | (audio or {}))
        config.modality_config("audio")
        return config

    def load(self, auto_class: Any, config: Data2VecConfig) -> Any:
        """The model of an Auto class, its convolutions frozen where that is asked for."""
        model = load_model(auto_class, self, config)
        if self.freeze_feature_encoder:
            model.freeze_feature_encoder()
        return model
