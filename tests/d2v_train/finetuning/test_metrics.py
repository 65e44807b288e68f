"""Metrics against values computed by hand, and their behaviour where they are not defined."""

import math
import os
import socket

import numpy as np
import pytest

from d2v_train.finetuning.metrics import (
    F1,
    Accuracy,
    CharacterErrorRate,
    MatthewsCorrelation,
    Pearson,
    PhonemeErrorRate,
    Spearman,
    WordErrorRate,
    accuracies,
    compute_all,
    count_edits,
    multi_label_scores,
)


TRUE, PREDICTED = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]  # 2 true positives, 1 of each error


@pytest.mark.parametrize(
    "metric, name, expected",
    [
        (Accuracy(), "accuracy", 6 / 8),
        (F1(), "f1", 2 / 3),
        (MatthewsCorrelation(), "matthews_correlation", (2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5)),
    ],
)
def test_metrics_of_class_ids(metric, name, expected):
    assert metric.compute(predictions=PREDICTED, references=TRUE) == {name: pytest.approx(expected)}


def test_f1_averages_over_classes():
    predictions, references = [0, 0, 1, 2], [0, 1, 1, 2]
    expected = np.mean([2 / 3, 2 / 3, 1.0])
    assert F1().compute(predictions=predictions, references=references, average="macro")["f1"] == (
        pytest.approx(expected)
    )
    assert F1().compute(predictions=predictions, references=references, average="micro")["f1"] == pytest.approx(0.75)


def test_correlations_of_numbers():
    references = [0.0, 1.0, 2.0, 3.0]
    predictions = [0.0, 1.0, 4.0, 9.0]
    mean = np.mean(predictions)
    covariance = np.sum((np.array(predictions) - mean) * (np.array(references) - 1.5))
    expected = covariance / np.sqrt(np.sum((np.array(predictions) - mean) ** 2) * 5.0)
    assert Pearson().compute(predictions=predictions, references=references)["pearson"] == pytest.approx(expected)
    assert Spearman().compute(predictions=predictions, references=references)["spearmanr"] == pytest.approx(1.0)


@pytest.mark.parametrize("metric", [F1(), MatthewsCorrelation(), Pearson(), Spearman()])
def test_what_is_not_defined_is_0_without_a_warning(metric, recwarn):
    (value,) = metric.compute(predictions=[0, 0, 0], references=[0, 0, 0]).values()
    assert value == 0.0
    assert not recwarn.list


def test_batches_add_up():
    metric = Accuracy()
    metric.add_batch(predictions=PREDICTED[:3], references=TRUE[:3])
    metric.add_batch(predictions=PREDICTED[3:], references=TRUE[3:])
    assert metric.compute() == {"accuracy": 0.75}


def test_several_metrics_and_their_mean():
    values = compute_all([Accuracy(), F1()], PREDICTED, TRUE, combined="combined_score")
    assert values == {
        "accuracy": 0.75,
        "f1": pytest.approx(2 / 3),
        "combined_score": pytest.approx((0.75 + 2 / 3) / 2),
    }
    assert compute_all([Accuracy()], PREDICTED, TRUE) == {"accuracy": 0.75}


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="match"):
        Accuracy().compute(predictions=[0, 1], references=[0])


def test_accuracies_leave_out_what_has_no_label():
    top = np.array([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5]])
    assert accuracies(top, np.array([0, 0, -100])) == {"accuracy": 0.5, "top_5_accuracy": 0.5}
    assert accuracies(top, np.array([4, 4, 5])) == {"accuracy": 0.0, "top_5_accuracy": 2 / 3}
    assert accuracies(top[:, :2], np.array([0, 5, 0])) == {"accuracy": 2 / 3}


PAIRS = [
    # prediction, reference, wrong words, words, wrong characters, characters
    ("the cat sat", "the cat sat", 0, 3, 0, 11),
    ("the cat", "the cat sat", 1, 3, 4, 11),
    ("the big cat sat", "the cat sat", 1, 3, 4, 11),
    ("the car sat", "the cat sat", 1, 3, 1, 11),
    ("", "the cat", 2, 2, 7, 7),
    ("thecat", "the cat", 2, 2, 1, 7),
    ("  the   cat ", "the cat", 0, 2, 0, 7),
]


def test_edits_of_batches_add_up():
    metric = WordErrorRate()
    for prediction, reference, *_ in PAIRS[:4]:
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == {"wer": 3 / 12}


@pytest.mark.parametrize(("prediction", "reference", "wrong", "words", "edits", "characters"), PAIRS)
def test_rates_of_one_pair(prediction, reference, wrong, words, edits, characters):
    assert WordErrorRate().compute(predictions=[prediction], references=[reference]) == {"wer": wrong / words}
    assert CharacterErrorRate().compute(predictions=[prediction], references=[reference]) == {
        "cer": edits / characters
    }


def test_counts_are_summed_before_they_are_divided():
    predictions, references = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]
    rates = compute_all([WordErrorRate(), CharacterErrorRate()], predictions, references)
    assert rates == {
        "wer": sum(pair[2] for pair in PAIRS) / sum(pair[3] for pair in PAIRS),
        "cer": sum(pair[4] for pair in PAIRS) / sum(pair[5] for pair in PAIRS),
    }


def test_an_empty_reference_counts_what_was_heard_as_inserted():
    assert count_edits(["two words"], [""]) == {"substitutions": 0, "deletions": 0, "insertions": 2, "units": 0}
    assert WordErrorRate().compute(predictions=["one", "a"], references=["", "a b"]) == {"wer": 1.0}


def test_kinds_of_edits_are_told_apart():
    counts = count_edits(["one ten four five new six"], ["one two three four five six"])
    assert counts == {"substitutions": 1, "deletions": 1, "insertions": 1, "units": 6}
    assert count_edits([], []) == {"substitutions": 0, "deletions": 0, "insertions": 0, "units": 0}


def test_nothing_is_fetched_or_written(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.chdir(tmp_path)
    CharacterErrorRate(cache_dir=str(tmp_path)).compute(predictions=["a"], references=["b"])
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == []


def test_scores_of_sets_of_classes():
    flags = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [-100] * 4, [0, 0, 1, 0]])
    probabilities = np.array([[0.9, 0.2, 0.4, 0.1], [0.6, 0.8, 0.1, 0.1], [1.0] * 4, [0.1, 0.1, 0.9, 0.1]])
    found, classes = multi_label_scores(probabilities, flags, ["a", "b", "c", "d"])
    # Three hits, one false alarm, one miss; the average precision is perfect, as ranks alone count.
    assert found["micro_f1"] == pytest.approx(3 / 4) and found["exact_match"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == pytest.approx(np.mean([2 / 3, 1, 2 / 3, 0]))
    assert found["mean_average_precision"] == 1
    assert classes[0] == {
        "class": "a", "samples": 1, "precision": 0.5, "recall": 1, "f1": pytest.approx(2 / 3), "average_precision": 1
    }  # fmt: skip
    assert classes[3]["average_precision"] is None and [row["samples"] for row in classes] == [1, 1, 2, 0]
    lower, _ = multi_label_scores(probabilities, flags, ["a", "b", "c", "d"], threshold=0.4)
    assert lower["micro_f1"] == pytest.approx(8 / 9)


@pytest.mark.parametrize("flags", [np.full((2, 3), -100), np.zeros((0, 3)), np.zeros((2, 3))])
def test_scores_without_any_class_are_zero_not_missing(flags):
    found, _ = multi_label_scores(np.zeros((len(flags), 3)), flags, ["a", "b", "c"])
    assert found["mean_average_precision"] == found["micro_f1"] == 0 and all(map(np.isfinite, found.values()))


def test_the_phoneme_error_rate_counts_phonemes():
    predictions, references = ["K AE T", "tS"], ["K AA T", "t S"]
    assert PhonemeErrorRate().compute(predictions=predictions, references=references) == {"per": 3 / 5}
    assert PhonemeErrorRate().compute(predictions=["AA1"], references=["AA1"]) == {"per": 0}
