"""The nine tasks of GLUE (Wang et al. 2018): columns, classes, metrics, published settings, files for the server.

Settings are those of data2vec 2.0, base (fairseq, `examples/data2vec/config/v2/text_finetuning/*.yaml`): batches of
16 or 32, learning rate 2e-5 (STS-B 4e-5), warm-up of 6 % of the updates (QQP 25 %). data2vec 1.0 uses those of RoBERTa
(fairseq, `examples/roberta/config/finetuning/*.yaml`): the same, with a learning rate of 1e-5 (RTE and STS-B 2e-5).
Neither publishes settings for WNLI, which has those of RTE here.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import MULTI_LABEL_METRICS, REGRESSION, SINGLE_LABEL
from d2v_train.finetuning.class_labels import class_names, is_whole


logger = logging.getLogger(__name__)

PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Attributes:
        columns: Column of the text, or columns of a pair of texts.
        labels: Class names in the order of their ids; `None` for scores.
        server_files: Names of the prediction files, one per test set.
        metrics: Names in `METRICS`; several metrics are also averaged, as in the GLUE paper ("combined_score").
        written: Whether the server expects class names instead of ids.
        batch_size, learning_rate, warmup: Published settings; the warm-up is a share of the updates.
        parts: Names of the evaluation sets, if there are two.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...] | None
    server_files: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    written: bool = False
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup: float = 0.06
    parts: tuple[str, ...] = ("",)

    @property
    def main_metric(self) -> str:
        """Metric that selects the best checkpoint, on the first evaluation set."""
        return f"{self.parts[0]}_{self.metrics[0] if len(self.metrics) == 1 else 'combined_score'}".strip("_")

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """Return the class ids or scores (N,) of logits (N, L)."""
        return logits[:, 0] if self.labels is None else logits.argmax(axis=-1)

    def shown(self, predictions: np.ndarray) -> list[str | int]:
        """Return class ids or scores (N,) in the format of the server; scores have three decimals."""
        if self.labels is None:
            return [f"{score:.3f}" for score in predictions]
        return [self.labels[number] if self.written else int(number) for number in predictions]

    def measure(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        """Return the metrics of class ids or scores (N,)."""
        # Importing `evaluate` takes seconds, which --help does not need.
        from d2v_train.finetuning.metrics import METRICS, compute_all

        combined = "combined_score" if len(self.metrics) > 1 else None
        return compute_all([METRICS[name]() for name in self.metrics], predictions, references, combined)


TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        ("sentence",), ("unacceptable", "acceptable"), ("CoLA",), ("matthews_correlation",), batch_size=16
    ),
    "sst2": GlueTask(("sentence",), ("negative", "positive"), ("SST-2",)),
    "mrpc": GlueTask(PAIR, ("not_equivalent", "equivalent"), ("MRPC",), ("accuracy", "f1"), batch_size=16),
    "qqp": GlueTask(
        ("question1", "question2"), ("not_duplicate", "duplicate"), ("QQP",), ("accuracy", "f1"), warmup=0.25
    ),
    "stsb": GlueTask(PAIR, None, ("STS-B",), ("pearson", "spearmanr"), batch_size=16, learning_rate=4e-5),
    "mnli": GlueTask(
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        ("MNLI-m", "MNLI-mm"),
        written=True,
        parts=("matched", "mismatched"),
    ),
    "qnli": GlueTask(("question", "sentence"), ENTAILMENT, ("QNLI",), written=True),
    "rte": GlueTask(PAIR, ENTAILMENT, ("RTE",), written=True, batch_size=16),
    "wnli": GlueTask(PAIR, ENTAILMENT[::-1], ("WNLI",), batch_size=16),
}
# Other texts with classes or with scores.
CLASSES = GlueTask((), (), ("predictions",), written=True)
MULTI_LABEL_CLASSES = GlueTask((), (), ("predictions",), MULTI_LABEL_METRICS[:1])
SCORES = GlueTask((), None, ("predictions",), ("pearson", "spearmanr"))


def of_one_process(batch: int) -> int:
    """Return the batch size of one process, before the processes are initialised."""
    return max(1, batch // int(os.environ.get("WORLD_SIZE", 1)))


def decide_task(
    name: str | None,
    config: Any,
    training: RawDataset | None,
    problem_type: str | None = None,
    multi_label: bool = False,
) -> GlueTask:
    """Return the named task, or else one with the classes or scores of the training labels or the model.

    Args:
        name: Name of a task of GLUE.
        config: Configuration of the model.
        training: Training data.
        problem_type: Option of that name.
        multi_label: Whether a text may have several classes.

    Raises:
        ValueError: If the training data has no labels, or others than asked for.
    """
    named = list(config.id2label.values())
    if name is not None:
        task = TASKS[name]
        # A model that was trained elsewhere may have another order of the classes.
        return replace(task, labels=tuple(named)) if set(named) == set(task.labels or ()) else task
    if training is not None and training.labels is None:
        raise ValueError("The training data has no labels: name their column with --label_column.")
    if multi_label:
        names = named if training is None else class_names(training)
        return replace(MULTI_LABEL_CLASSES, labels=tuple(names))
    if training is None:
        return SCORES if config.problem_type == "regression" else replace(CLASSES, labels=tuple(named))
    if training.labels.dtype.kind == "f" and problem_type == SINGLE_LABEL:
        raise ValueError(f"--problem_type is {problem_type}, but the labels of the training data are real numbers.")
    if training.labels.dtype.kind == "f" and problem_type is None and is_whole(training.labels):
        logger.warning(
            "The labels are whole numbers, but not stored as such (which empty cells cause too), and are learned as "
            "scores. --problem_type %s learns them as classes.",
            SINGLE_LABEL,
        )
    if training.labels.dtype.kind == "f" or problem_type == REGRESSION:
        return SCORES
    return replace(CLASSES, labels=tuple(class_names(training)))
