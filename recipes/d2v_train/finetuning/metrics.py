"""Metrics of the fine-tuning programs, as subclasses of `evaluate.Metric` that work offline.

`evaluate.load` downloads the script of a metric from the Hub; these use scikit-learn and SciPy.

    >>> Accuracy().compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from d2v_train.finetuning.arguments import MULTI_LABEL_METRICS
from d2v_train.finetuning.class_labels import NO_LABEL
from d2v_train.support.extras import need


class OfflineMetric(evaluate.Metric):
    """Base class of the metrics; a subclass implements `_compute`.

    Batches are kept in memory instead of on disk, where several runs on one machine could share files.

    Attributes:
        value: Feature type of a prediction and of a reference.
    """

    value: ClassVar[Any] = datasets.Value("int64")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": self.value, "references": self.value})
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features)


class Accuracy(OfflineMetric):
    """Share of correctly predicted class ids."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class F1(OfflineMetric):
    """Harmonic mean of precision and recall; 0 without positive samples and predictions.

    `compute` takes `average`: "binary" (default, for class `pos_label`), "micro", "macro" or "weighted".
    """

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], average: str = "binary", pos_label: int = 1
    ) -> dict[str, float]:
        value = f1_score(references, predictions, average=average, pos_label=pos_label, zero_division=0)
        return {"f1": float(value)}


class MatthewsCorrelation(OfflineMetric):
    """Correlation of predicted and true class ids, from -1 to 1; 0 if all of either are equal."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        with warnings.catch_warnings():
            # scikit-learn warns of a single class and returns 0.
            warnings.simplefilter("ignore")
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class _Correlation(OfflineMetric):
    """Base class of the correlations of predicted and true numbers.

    Attributes:
        name: Name of the metric.
        function: Function of SciPy whose result has the attribute `statistic`.
    """

    value = datasets.Value("float64")
    name: ClassVar[str]
    function: ClassVar[Any]

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        varied = np.ptp(predictions) > 0 and np.ptp(references) > 0
        return {self.name: float(self.function(predictions, references).statistic) if varied else 0.0}


class Pearson(_Correlation):
    """Linear correlation of predicted and true numbers, from -1 to 1; 0 if all of either are equal."""

    name, function = "pearson", staticmethod(pearsonr)


class Spearman(_Correlation):
    """Rank correlation of predicted and true numbers, from -1 to 1; 0 if all of either are equal."""

    name, function = "spearmanr", staticmethod(spearmanr)


METRICS: dict[str, type[OfflineMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearmanr": Spearman,
}


def compute_all(
    metrics: Sequence[evaluate.Metric], predictions: Any, references: Any, combined: str | None = None
) -> dict[str, float]:
    """Compute several metrics of the same predictions.

    Args:
        metrics: Metrics, such as `[Accuracy(), F1()]`.
        predictions, references: Values (N,).
        combined: Name of the mean of the metrics in the result; `None` for no mean.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        values |= metric.compute(predictions=predictions, references=references)
    if combined is not None:
        values[combined] = float(np.mean(list(values.values())))
    return values


def accuracies(top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the top-1 accuracy of N samples, and the top-5 accuracy if there are more than five classes.

    Args:
        top: (N, up to 6) class ids, most probable first.
        labels: (N,) class ids; samples with `NO_LABEL` are ignored.
    """
    counted = labels != NO_LABEL
    hits = top[counted] == labels[counted, None]
    result = {"accuracy": float(hits[:, 0].mean()) if counted.any() else 0.0}
    if top.shape[1] > 5:
        result["top_5_accuracy"] = float(hits[:, :5].any(axis=1).mean()) if counted.any() else 0.0
    return result


def class_scores(top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the accuracy and the macro F1 of N samples; in the latter every class has the same weight.

    Args:
        top: (N, up to 6) class ids, most probable first.
        labels: (N,) class ids; samples with `NO_LABEL` are ignored.
    """
    counted = labels != NO_LABEL
    classes, labels = top[counted, 0], labels[counted]
    f1 = F1().compute(predictions=classes, references=labels, average="macro")["f1"]
    return {**Accuracy().compute(predictions=classes, references=labels), "macro_f1": f1}


def multi_label_scores(
    probabilities: np.ndarray, flags: np.ndarray, names: Sequence[str], threshold: float = 0.5
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Measure classes that do not exclude each other.

    Args:
        probabilities: (N, L).
        flags: (N, L) 0 or 1; rows of `NO_LABEL` are ignored.
        names: Names of the L classes.
        threshold: Probability from which a class is assigned.

    Returns:
        `MULTI_LABEL_METRICS`: the mean over classes of the average precision (of classes with samples alone), F1 over
        all classes and samples, mean F1 of the classes, and the share of samples with exactly the right classes. The
        same of each class, with its name and number of samples.
    """
    counted = (flags != NO_LABEL).all(axis=1)
    flags, probabilities = flags[counted] > 0.5, probabilities[counted]
    assigned = probabilities >= threshold
    if not len(flags):
        flags, assigned, probabilities = (np.zeros((1, len(names)), dtype=kind) for kind in (bool, bool, float))
    precision, recall, f1, _ = precision_recall_fscore_support(flags, assigned, average=None, zero_division=0)
    ranked = [
        float(average_precision_score(flags[:, number], probabilities[:, number])) if flags[:, number].any() else None
        for number in range(len(names))
    ]
    known = [value for value in ranked if value is not None]
    values = (
        float(np.mean(known)) if known else 0.0,
        float(f1_score(flags, assigned, average="micro", zero_division=0)),
        float(f1.mean()),
        float((flags == assigned).all(axis=1).mean()),
    )
    columns = (names, flags.sum(axis=0).tolist(), precision.tolist(), recall.tolist(), f1.tolist(), ranked)
    keys = ("class", "samples", "precision", "recall", "f1", "average_precision")
    by_class = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return dict(zip(MULTI_LABEL_METRICS, values, strict=True)), by_class


class _ErrorRate(OfflineMetric):
    """Edits that turn the predictions into the references, as a share of the units of the references.

    Counts are summed over all pairs before the division, so long references have more weight. White space is stripped
    at the ends and reduced to one space between words. A rate can be above 1.
    """

    value = datasets.Value("string")
    unit: ClassVar[str]

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counts = count_edits(predictions, references, self.unit)
        edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        return {f"{self.unit[0]}er": edits / max(counts["units"], 1)}


class WordErrorRate(_ErrorRate):
    """Substituted, deleted and inserted words, relative to the words of the references, as {"wer": ...}."""

    unit = "word"


class CharacterErrorRate(_ErrorRate):
    """Substituted, deleted and inserted characters, spaces included, relative to those of the references ("cer")."""

    unit = "character"


class PhonemeErrorRate(_ErrorRate):
    """Substituted, deleted and inserted phonemes, separated by spaces, relative to those of the references ("per")."""

    unit = "phoneme"


def count_edits(predictions: Sequence[str], references: Sequence[str], unit: str = "word") -> dict[str, int]:
    """Count substitutions, deletions and insertions of the best alignments, and the "units" of the references.

    Args:
        predictions, references: Pairs of texts.
        unit: "word", "phoneme" (both are separated by spaces) or "character".

    Raises:
        MissingDependencyError: If jiwer is not installed.
    """
    jiwer = need("jiwer", "audio")
    texts, truths = ([" ".join(text.split()) for text in part] for part in (predictions, references))
    align = jiwer.process_characters if unit == "character" else jiwer.process_words
    counted = {"substitutions": 0, "deletions": 0, "insertions": 0, "units": 0}
    if truths:
        result = align(truths, texts)
        counted = {key: getattr(result, key) for key in ("substitutions", "deletions", "insertions")}
        counted["units"] = result.hits + result.substitutions + result.deletions
    return counted
