"""Metrics of the fine-tuning programs, as `evaluate.Metric`s that need no network.

`evaluate.load` fetches the script of a metric from the Hub; these are computed by scikit-learn and SciPy.

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
from sklearn.metrics import f1_score, matthews_corrcoef

from d2v_train.finetuning.class_labels import NO_LABEL
from d2v_train.support.extras import need


class OfflineMetric(evaluate.Metric):
    """Base of the metrics: a subclass states what a prediction is, and computes.

    What is added batch by batch stays in memory: nothing is written to disk, and several runs on one machine do not
    meet each other's files.

    Attributes:
        value: feature of one prediction and of one reference.
    """

    value: ClassVar[Any] = datasets.Value("int64")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"keep_in_memory": True, **kwargs})

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": self.value, "references": self.value})
        return evaluate.MetricInfo(description=type(self).__doc__, citation="", features=features)


class Accuracy(OfflineMetric):
    """Share of right predictions of class ids."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class F1(OfflineMetric):
    """Harmonic mean of precision and recall; 0 where there is neither a positive nor a prediction of one.

    `compute` takes `average`: "binary" (default, of class `pos_label`), "micro", "macro" or "weighted".
    """

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], average: str = "binary", pos_label: int = 1
    ) -> dict[str, float]:
        value = f1_score(references, predictions, average=average, pos_label=pos_label, zero_division=0)
        return {"f1": float(value)}


class MatthewsCorrelation(OfflineMetric):
    """Correlation of predicted and true class ids, from -1 to 1; 0 where all of either are the same."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        with warnings.catch_warnings():
            # Of a single class; 0 is what it then is.
            warnings.simplefilter("ignore")
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}


class _Correlation(OfflineMetric):
    """Base of the correlations of predicted and true numbers.

    Attributes:
        name: of the metric.
        function: gives it, in the attribute `statistic` of its result.
    """

    value = datasets.Value("float64")
    name: ClassVar[str]
    function: ClassVar[Any]

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        varied = np.ptp(predictions) > 0 and np.ptp(references) > 0
        return {self.name: float(self.function(predictions, references).statistic) if varied else 0.0}


class Pearson(_Correlation):
    """Linear correlation of predicted and true numbers, from -1 to 1; 0 where all of either are the same."""

    name, function = "pearson", staticmethod(pearsonr)


class Spearman(_Correlation):
    """Correlation of the ranks of predicted and true numbers, from -1 to 1; 0 where all of either are the same."""

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
        metrics: such as `[Accuracy(), F1()]`.
        predictions, references: (N,).
        combined: name under which to add the mean of the metrics; `None` adds none.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        values |= metric.compute(predictions=predictions, references=references)
    if combined is not None:
        values[combined] = float(np.mean(list(values.values())))
    return values


def accuracies(top: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the share of N samples whose class is the first, and with more than five classes among the first five.

    Args:
        top: (N, up to 6) class ids, most probable first.
        labels: (N,) class ids; those of `NO_LABEL` are left out.
    """
    counted = labels != NO_LABEL
    hits = top[counted] == labels[counted, None]
    result = {"accuracy": float(hits[:, 0].mean()) if counted.any() else 0.0}
    if top.shape[1] > 5:
        result["top_5_accuracy"] = float(hits[:, :5].any(axis=1).mean()) if counted.any() else 0.0
    return result


class _ErrorRate(OfflineMetric):
    """Edits that turn the predictions into the references, as a share of the words or characters of the references.

    Counts are summed over all pairs before they are divided, so that long references weigh more than short ones. White
    space at the ends and beyond one blank between words is no character. A rate can be above 1.
    """

    value = datasets.Value("string")
    unit: ClassVar[str]

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counts = count_edits(predictions, references, self.unit)
        edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        return {f"{self.unit[0]}er": edits / max(counts["units"], 1)}


class WordErrorRate(_ErrorRate):
    """Share of the words of the references that was substituted, deleted or inserted, as {"wer": ...}."""

    unit = "word"


class CharacterErrorRate(_ErrorRate):
    """The same of characters, as {"cer": ...}; a blank between two words is one."""

    unit = "character"


def count_edits(predictions: Sequence[str], references: Sequence[str], unit: str = "word") -> dict[str, int]:
    """Count the substitutions, deletions and insertions of the best alignments, and the "units" of the references.

    Args:
        predictions, references: pairs of texts.
        unit: "word" or "character".

    Raises:
        MissingDependencyError: if jiwer is not installed.
    """
    jiwer = need("jiwer", "audio")
    texts, truths = ([" ".join(text.split()) for text in part] for part in (predictions, references))
    align = jiwer.process_words if unit == "word" else jiwer.process_characters
    counted = {"substitutions": 0, "deletions": 0, "insertions": 0, "units": 0}
    if truths:
        result = align(truths, texts)
        counted = {key: getattr(result, key) for key in ("substitutions", "deletions", "insertions")}
        counted["units"] = result.hits + result.substitutions + result.deletions
    return counted
