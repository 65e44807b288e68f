"""Classification and regression of texts and pairs of texts, including GLUE, as a `Task`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, EvalPrediction, PreTrainedModel

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import MULTI_LABEL, SINGLE_LABEL, check_one_class_options
from d2v_train.finetuning.class_labels import (
    NO_LABEL,
    as_classes,
    class_fields,
    class_target,
    decide_multi_label,
    no_label,
    unlabelled,
    warn_missing_classes,
)
from d2v_train.finetuning.classification import assigned_classes, independent
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.metrics import multi_label_scores
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.plain_models import output_bias, plain_loss
from d2v_train.finetuning.run import Task, write_predictions
from d2v_train.finetuning.texts.data import GLUE, open_texts, open_tokenizer, score_target
from d2v_train.finetuning.texts.glue import CLASSES, TASKS, decide_task
from d2v_train.inputs.text import TextTransform
from modeling_d2v import Data2VecConfig


class TextClassification(Task):
    """Classification or regression of texts or pairs of texts.

    Attributes:
        glue: Task with classes, metrics and settings.
        regression: Whether the task has scores instead of classes.
        multi_label: Whether a text may have several classes, or none.
    """

    modality = "text"
    auto_class = AutoModelForSequenceClassification
    hub_task = "text-classification"

    def __init__(self, model_args: Any, data_args: Any, args: Any) -> None:
        super().__init__(model_args, data_args, args)
        self.glue = TASKS.get(args.task_name, CLASSES)
        self.parts = self.glue.parts
        self.tokenizer = open_tokenizer(model_args, self.config)
        longest = self.config.text_config.max_position_embeddings or data_args.max_seq_length
        self.tokenizer.model_max_length = longest
        self.transform = TextTransform(self.tokenizer, max_length=min(data_args.max_seq_length, longest), train=False)
        self.texts = open_texts(data_args, args.task_name, self.glue.columns or None, model_args.token)

    def open(self, split: str, part: str = "") -> RawDataset:
        raw = self.texts.open(f"{self.data_args.split_of(split)}_{part}".strip("_"))
        return as_classes(raw) if self.data_args.problem_type in (SINGLE_LABEL, MULTI_LABEL) else raw

    def learn(self, training: RawDataset | None) -> None:
        problem = self.data_args.problem_type
        self.multi_label = self.args.task_name is None and decide_multi_label(problem, self.config, training)
        self.glue = decide_task(self.args.task_name, self.config, training, problem, self.multi_label)
        self.regression = self.glue.labels is None
        if self.args.takes_main_metric:
            self.args.metric_for_best_model = self.glue.main_metric
        if self.multi_label:
            check_one_class_options(self.args)

    def unlabelled(self, raw: RawDataset) -> np.ndarray | None:
        return unlabelled(raw)

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        if "training" in raw and not self.regression:
            warn_missing_classes(raw["training"], self.glue.labels)
        return raw

    def configuration(self) -> Data2VecConfig:
        fields = class_fields(self.glue.labels or ["score"], self.multi_label)
        if self.regression:
            fields["problem_type"] = "regression"
        dropout = dict.fromkeys(("hidden_dropout", "mlp_dropout", "attention_dropout"), self.args.dropout)
        return load_config(self.model_args, **fields, **dropout)

    def build_model(self, training: RawDataset | None) -> PreTrainedModel:
        model = super().build_model(training)
        bias = output_bias(model) if self.regression else None
        if bias is not None and training is not None and not bias.any():
            # A new head would need hundreds of updates to learn the mean of the scores.
            with torch.no_grad():
                bias.fill_(float(training.labels.mean()))
        return model

    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        target = (
            score_target(raw, name)
            if self.regression
            else class_target(raw, self.glue.labels, name, multi_label=self.multi_label)
        )
        if target is no_label and not name.startswith("test"):
            raise ValueError(
                f"The {name} data has no labels. Its columns are {', '.join(self.texts.column_names)}; name the label "
                "column with --label_column."
            )
        return FinetuningDataset(raw, self.transform, target, self.args.seed)

    def trainer_options(self) -> dict[str, Any]:
        options = {**super().trainer_options(), "processing_class": self.tokenizer}
        if self.is_plain and self.multi_label:
            options["compute_loss_func"] = plain_loss(self.config)
        return options

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = prediction.predictions, prediction.label_ids
        if self.multi_label:
            probabilities = independent(torch.from_numpy(logits), None).numpy()
            return multi_label_scores(probabilities, labels, self.glue.labels, self.data_args.threshold)[0]
        counted = labels != NO_LABEL
        return self.glue.measure(self.glue.decide(logits)[counted], labels[counted])

    def card(self) -> dict[str, Any]:
        card = super().card()
        return card | {
            "dataset": card["dataset"] or GLUE,
            "dataset_args": self.args.task_name or card["dataset_args"],
            "labels": self.glue.labels or (),
        }

    def describe(self, update: int) -> str:
        kinds = "scores" if self.regression else f"{len(self.glue.labels)} classes"
        return f", {kinds}, at most {self.transform.max_length} tokens per text"

    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        """Write a file for the GLUE server; unreadable texts get the most common class or the mean score."""
        if self.multi_label:
            probabilities = independent(torch.from_numpy(output.predictions), None).numpy()
            columns = assigned_classes(probabilities, self.glue.labels, self.data_args.threshold)
            path = Path(self.args.output_dir) / "predictions" / "predictions.tsv"
            write_predictions(path, {"index": dataset.raw.rows, **columns})
            return
        found = self.glue.decide(output.predictions)
        common = found.mean() if self.regression else np.bincount(found).argmax()
        predictions = np.full(len(raw), common, dtype=found.dtype)
        predictions[np.isin(raw.rows, dataset.raw.rows)] = found
        file = self.glue.server_files[self.parts.index(name.removeprefix("test").strip())]
        columns = {"index": raw.rows, "prediction": self.glue.shown(predictions)}
        write_predictions(Path(self.args.output_dir) / "predictions" / f"{file}.tsv", columns)
