"""The nine tasks of GLUE (Wang et al. 2018): columns, classes, metrics, published settings, files of the server.

Settings are those of data2vec 2.0, base (fairseq, `examples/data2vec/config/v2/text_finetuning/*.yaml`): batches of
16 or 32, learning rate 2e-5 (STS-B 4e-5), warm-up of 6 % of the updates (QQP 25 %). data2vec 1.0 takes RoBERTa's
(fairseq, `examples/roberta/config/finetuning/*.yaml`): the same, with a learning rate of 1e-5 (RTE and STS-B 2e-5).
Neither publishes settings for WNLI; here it has those of RTE.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import evaluate
import numpy as np

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.class_labels import class_names
from d2v_train.finetuning.metrics import F1, Accuracy, MatthewsCorrelation, Pearson, Spearman, compute_all


BINARY = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        columns: the text, or the two texts, of a sample.
        labels: names of the classes in the order of their ids; `None` for scores.
        metrics: what is measured; several are also averaged, as in the GLUE paper ("combined_score").
        main_metric: the one of which the best checkpoint has most.
        server_files: prediction files by test set.
        written: whether the server wants names of classes, not their ids.
        batch_size, learning_rate, warmup: published settings; the warm-up is a share of the updates.
        parts: names of the two evaluation sets, where there are two.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[type[evaluate.Metric], ...]
    main_metric: str
    server_files: tuple[str, ...]
    written: bool = False
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.06
    parts: tuple[str, ...] = ("",)

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Class ids or scores (N,) of logits (N, L)."""
        return logits[:, 0] if self.labels is None else logits.argmax(axis=-1)

    def measure(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """The metrics of class ids or scores (N,)."""
        combined = "combined_score" if len(self.metrics) > 1 else None
        return compute_all([metric() for metric in self.metrics], predictions, references, combined)


TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        columns=("sentence",),
        labels=("unacceptable", "acceptable"),
        metrics=(MatthewsCorrelation,),
        main_metric="matthews_correlation",
        server_files=("CoLA",),
        batch_size=16,
    ),
    "sst2": GlueTask(
        columns=("sentence",),
        labels=("negative", "positive"),
        metrics=(Accuracy,),
        main_metric="accuracy",
        server_files=("SST-2",),
    ),
    "mrpc": GlueTask(
        columns=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        metrics=(Accuracy, F1),
        main_metric="combined_score",
        server_files=("MRPC",),
        batch_size=16,
    ),
    "qqp": GlueTask(
        columns=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        metrics=(Accuracy, F1),
        main_metric="combined_score",
        server_files=("QQP",),
        warmup=0.25,
    ),
    "stsb": GlueTask(
        columns=("sentence1", "sentence2"),
        labels=None,
        metrics=(Pearson, Spearman),
        main_metric="combined_score",
        server_files=("STS-B",),
        batch_size=16,
        learning_rate=4e-5,
    ),
    "mnli": GlueTask(
        columns=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        metrics=(Accuracy,),
        main_metric="matched_accuracy",
        server_files=("MNLI-m", "MNLI-mm"),
        written=True,
        parts=("matched", "mismatched"),
    ),
    "qnli": GlueTask(
        columns=("question", "sentence"),
        labels=BINARY,
        metrics=(Accuracy,),
        main_metric="accuracy",
        server_files=("QNLI",),
        written=True,
    ),
    "rte": GlueTask(
        columns=("sentence1", "sentence2"),
        labels=BINARY,
        metrics=(Accuracy,),
        main_metric="accuracy",
        server_files=("RTE",),
        written=True,
        batch_size=16,
    ),
    "wnli": GlueTask(
        columns=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        metrics=(Accuracy,),
        main_metric="accuracy",
        server_files=("WNLI",),
        batch_size=16,
    ),
}

# Texts that are no task of GLUE, with classes or with scores.
CLASSES = GlueTask((), (), (Accuracy,), "accuracy", ("predictions",), written=True)
SCORES = GlueTask((), None, (Pearson, Spearman), "combined_score", ("predictions",))


def decide_task(name: str | None, config: Any, training: RawDataset | None) -> GlueTask:
    """What is learned: the named task, else classes or scores, as the labels are; without training, as the model is.

    Raises:
        ValueError: if the training data has no labels.
    """
    named = list(config.id2label.values())
    if name is not None:
        task = TASKS[name]
        # A model that was trained elsewhere may count the classes in another order.
        return replace(task, labels=tuple(named)) if set(named) == set(task.labels or ()) else task
    if training is None:
        return SCORES if config.problem_type == "regression" else replace(CLASSES, labels=tuple(named))
    if training.labels is None:
        raise ValueError("The training data has no labels: name their column with --label_column_name.")
    if training.labels.dtype.kind == "f":
        return SCORES
    return replace(CLASSES, labels=tuple(class_names(training)))


def write_glue_predictions(
    path: str | Path, rows: Sequence[int], predictions: np.ndarray, names: Sequence[str] | None = None
) -> Path:
    """Writes predictions as the GLUE server takes them: tab-separated, with columns "index" and "prediction".

    Args:
        path: of the file.
        rows: place of each sample in its data set, from 0.
        predictions: class ids or scores (N,).
        names: names of the classes, to write these; `None` writes ids, and scores with three decimals.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "prediction"])
        for row, prediction in zip(rows, predictions, strict=True):
            if names is not None:
                shown = names[int(prediction)]
            elif np.issubdtype(predictions.dtype, np.floating):
                shown = f"{prediction:.3f}"
            else:
                shown = int(prediction)
            writer.writerow([int(row), shown])
    return path
