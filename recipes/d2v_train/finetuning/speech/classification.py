"""Classification of recordings as a `Task`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import AutoModelForAudioClassification

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.classification import ClassificationTask
from d2v_train.finetuning.metrics import class_scores
from d2v_train.finetuning.speech.task import Selection, SpeechTask


class AudioClassification(SpeechTask, ClassificationTask):
    """Classification of recordings, trained on random crops of long ones."""

    auto_class = AutoModelForAudioClassification
    hub_task = "audio-classification"

    def selection(self, name: str, raw: RawDataset) -> Selection:
        return Selection(raw, name)

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        raw = super().select(raw)
        if "training" in raw:
            self.seconds = np.minimum(header_seconds(raw["training"]), self.data_args.max_length_seconds)
        return raw

    def fields(self) -> dict[str, Any]:
        return self.model_args.fields()

    def transform(self, training: bool) -> Any:
        crop = {"crop_seconds": self.data_args.max_length_seconds} if training else {}
        return self.audio_transform(training, **crop)

    def measure_one(self, top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return class_scores(top, labels)
