"""Base of the tasks that assign one class to each image or recording.

Legend: N samples, L classes.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch

from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.class_labels import (
    class_fields,
    class_names,
    class_target,
    fraction_of_each_class,
    labelled,
    warn_missing_classes,
)
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.run import Task, write_predictions
from modeling_d2v import Data2VecConfig


class ClassificationTask(Task):
    """Classification of samples into the classes of the training data, or of the checkpoint without training data.

    Attributes:
        names: Names of the L classes.
    """

    def open(self, split: str, part: str = "") -> RawDataset:
        return self.data_args.open(split, label_column=self.data_args.label_column)

    def learn(self, training: RawDataset | None) -> None:
        known = [self.config.id2label[number] for number in range(self.config.num_labels)]
        self.names = known if training is None else class_names(labelled(training, "training"))

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        if "training" in raw:
            if self.data_args.train_fraction < 1:
                chosen = fraction_of_each_class(raw["training"].labels, self.data_args.train_fraction, self.args.seed)
                raw["training"] = raw["training"].select(chosen)
            warn_missing_classes(raw["training"], self.names)
        return raw

    def configuration(self) -> Data2VecConfig:
        return load_config(self.model_args, **class_fields(self.names), **self.fields())

    def fields(self) -> dict[str, Any]:
        """Return the fields that the run sets in the model configuration, other than the classes."""
        return {}

    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        skip_bad = self.skips_bad and name != "training"
        target = class_target(raw if name == "test" else labelled(raw, name), self.names, name, skip_bad)
        return FinetuningDataset(raw, self.transform(name == "training"), target, self.args.seed)

    @abstractmethod
    def transform(self, training: bool) -> Any:
        """Return the transform from records to inputs of the model, for training or for evaluation."""

    def trainer_options(self) -> dict[str, Any]:
        return {**super().trainer_options(), "preprocess_logits_for_metrics": most_probable}

    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        """Write `predictions.csv`: sample, class, probability; the last two are empty for broken samples."""
        raw, count = dataset.raw, range(len(dataset))
        ids, probabilities = (values[:, 0] for values in output.predictions)
        broken = [raw.bad.is_bad(index) for index in count]
        columns = {
            RECORD_KINDS[raw.modality].key: [raw.name_of(index) for index in count],
            "label": ["" if broken[index] else self.names[ids[index]] for index in count],
            "probability": ["" if broken[index] else f"{probabilities[index]:.4f}" for index in count],
        }
        write_predictions(Path(self.args.output_dir) / "predictions.csv", columns)


def most_probable(logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and probabilities of the most probable classes, (N, up to 6), for metrics and predictions."""
    best = logits.float().softmax(dim=-1).topk(min(logits.shape[-1], 6))
    return best.indices, best.values
