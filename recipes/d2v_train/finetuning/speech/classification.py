"""Classification of recordings as a `Task`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import AutoModelForAudioClassification

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.class_labels import NO_LABEL
from d2v_train.finetuning.classification import ClassificationTask
from d2v_train.finetuning.metrics import F1, Accuracy
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
        """Return the accuracy and the macro F1, in which every class has the same weight."""
        counted = labels != NO_LABEL
        classes, labels = top[counted, 0], labels[counted]
        f1 = F1().compute(predictions=classes, references=labels, average="macro")["f1"]
        return {**Accuracy().compute(predictions=classes, references=labels), "macro_f1": f1}
