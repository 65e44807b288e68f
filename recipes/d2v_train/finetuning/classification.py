"""Base of the tasks that assign a class, or several, to each image or recording.

Legend: N samples, L classes.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from d2v_train.data.kinds import RECORD_KINDS
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import MULTI_LABEL_METRICS, check_one_class_options
from d2v_train.finetuning.class_labels import (
    as_classes,
    class_fields,
    class_names,
    class_target,
    decide_multi_label,
    fraction_of_each_class,
    labelled,
    unlabelled,
    warn_missing_classes,
)
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.metrics import multi_label_scores
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.plain_models import plain_loss
from d2v_train.finetuning.run import Task, write_predictions
from modeling_d2v import Data2VecConfig


class ClassificationTask(Task):
    """Classification of samples into the classes of the training data, or of the checkpoint without training data.

    Attributes:
        names: Names of the L classes.
        multi_label: Whether a sample may have several classes, or none, each predicted independently.
        scores: Scores of each class in the last evaluation, if there may be several.
    """

    multi_label = False
    scores: Sequence[dict[str, float]] = ()

    def open(self, split: str, part: str = "") -> RawDataset:
        return as_classes(self.data_args.open(split, label_column=self.data_args.label_column))

    def learn(self, training: RawDataset | None) -> None:
        known = [self.config.id2label[number] for number in range(self.config.num_labels)]
        self.names = known if training is None else class_names(labelled(training, "training"))
        self.multi_label = decide_multi_label(self.data_args.problem_type, self.config, training)
        if self.multi_label:
            if self.args.takes_main_metric:
                self.args.metric_for_best_model = MULTI_LABEL_METRICS[0]
            check_one_class_options(self.args, self.data_args.smooths_flags)

    def unlabelled(self, raw: RawDataset) -> np.ndarray | None:
        return unlabelled(raw)

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        if "training" in raw:
            if self.data_args.train_fraction < 1:
                chosen = fraction_of_each_class(raw["training"].labels, self.data_args.train_fraction, self.args.seed)
                raw["training"] = raw["training"].select(chosen)
            warn_missing_classes(raw["training"], self.names)
        return raw

    def configuration(self) -> Data2VecConfig:
        return load_config(self.model_args, **class_fields(self.names, self.multi_label), **self.fields())

    def fields(self) -> dict[str, Any]:
        """Return the fields that the run sets in the model configuration, other than the classes."""
        return {}

    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        skip_bad = self.skips_bad and name != "training"
        target = class_target(
            raw if name == "test" else labelled(raw, name), self.names, name, skip_bad, self.multi_label
        )
        return FinetuningDataset(raw, self.transform(name == "training"), target, self.args.seed)

    @abstractmethod
    def transform(self, training: bool) -> Any:
        """Return the transform from records to inputs of the model, for training or for evaluation."""

    def card(self) -> dict[str, Any]:
        return super().card() | {"labels": self.names}

    def trainer_options(self) -> dict[str, Any]:
        chosen = independent if self.multi_label else most_probable
        options = {**super().trainer_options(), "preprocess_logits_for_metrics": chosen}
        if self.is_plain and (self.multi_label or self.data_args.smooths_flags):
            options["compute_loss_func"] = plain_loss(self.config)
        return options

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of `measure_one`, or of `multi_label_scores` if a sample may have several classes."""
        if not self.multi_label:
            return self.measure_one(prediction.predictions[0], prediction.label_ids)
        threshold = self.data_args.threshold
        found, self.scores = multi_label_scores(prediction.predictions, prediction.label_ids, self.names, threshold)
        return found

    @abstractmethod
    def measure_one(self, top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the metrics of one class per sample.

        Args:
            top: (N, up to 6) class ids, most probable first.
            labels: (N,) class ids, or `NO_LABEL`.
        """

    def after_evaluation(self, dataset: FinetuningDataset | None) -> None:
        """Write `classes_eval.csv`, the scores of each class, if there may be several."""
        if self.multi_label:
            columns = {key: [scores[key] for scores in self.scores] for key in self.scores[0]}
            write_predictions(Path(self.args.output_dir) / "classes_eval.csv", columns, "classes")

    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        """Write `predictions.csv`: sample, class, probability; the last two are empty for broken samples.

        If there may be several classes, these are JSON lists of those with a probability of at least --threshold.
        """
        raw, count = dataset.raw, range(len(dataset))
        columns: dict[str, list[str]] = {RECORD_KINDS[raw.modality].key: [raw.name_of(index) for index in count]}
        if self.multi_label:
            columns |= assigned_classes(output.predictions, self.names, self.data_args.threshold)
        else:
            ids, probabilities = (values[:, 0] for values in output.predictions)
            columns["label"] = [self.names[number] for number in ids]
            columns["probability"] = [f"{value:.4f}" for value in probabilities]
        for values in list(columns.values())[1:]:
            for index in count:
                if raw.bad.is_bad(index):
                    values[index] = ""
        write_predictions(Path(self.args.output_dir) / "predictions.csv", columns)


def assigned_classes(probabilities: np.ndarray, names: Sequence[str], threshold: float) -> dict[str, list[str]]:
    """Return the columns "labels" and "probabilities" of predictions, a JSON list for each sample.

    Args:
        probabilities: (N, L).
        names: Names of the L classes.
        threshold: Probability from which a class is assigned.
    """
    chosen = [np.flatnonzero(row >= threshold) for row in probabilities]
    shares = [row[numbers] for row, numbers in zip(probabilities, chosen, strict=True)]
    return {
        "labels": [json.dumps([names[number] for number in numbers], ensure_ascii=False) for numbers in chosen],
        "probabilities": [json.dumps([round(float(share), 4) for share in row]) for row in shares],
    }


def independent(logits: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Return the probabilities (N, L) of classes that do not exclude each other."""
    return logits.float().sigmoid()


def most_probable(logits: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and probabilities of the most probable classes, (N, up to 6), for metrics and predictions."""
    best = logits.float().softmax(dim=-1).topk(min(logits.shape[-1], 6))
    return best.indices, best.values
