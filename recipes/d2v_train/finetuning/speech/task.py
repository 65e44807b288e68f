"""What both tasks of speech share: which recordings are used, batches of similar length, frozen convolutions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.run import Task
from d2v_train.finetuning.speech.selection import Selection, report_selections
from d2v_train.finetuning.speech.training import SpeechTrainer
from d2v_train.inputs.processors import feature_extractor
from modeling_d2v import Data2VecProcessor


class SpeechTask(Task):
    """A task on recordings.

    Attributes:
        seconds: length of each recording that is trained on, (N,).
        tokenizer: of transcripts, saved beside the model; None for none.
    """

    modality = "audio"
    trainer_class = SpeechTrainer
    seconds: np.ndarray | None = None
    tokenizer: Any = None

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        selections = {name: self.selection(name, part) for name, part in raw.items()}
        selected = {name: part.select(selections[name].indices) for name, part in raw.items()}
        report_selections(list(selections.values()), self.args)
        return super().select(selected)

    @abstractmethod
    def selection(self, name: str, raw: RawDataset) -> Selection:
        """Return which recordings of a data set are used."""

    def build_model(self, training: RawDataset | None) -> PreTrainedModel:
        model = super().build_model(training)
        if self.model_args.freeze_feature_encoder:
            model.freeze_feature_encoder()
        return model

    def trainer_options(self) -> dict[str, Any]:
        processor = Data2VecProcessor(tokenizer=self.tokenizer, feature_extractor=feature_extractor(self.config))
        return {**super().trainer_options(), "processor": processor, "train_seconds": self.seconds}
