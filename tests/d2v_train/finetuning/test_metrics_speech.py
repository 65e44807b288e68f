"""Word and character error rates, against edits counted by hand."""

import os
import socket

import pytest

from d2v_train.finetuning.metrics import CharacterErrorRate, WordErrorRate, compute_all, count_edits


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


def test_batches_add_up():
    metric = WordErrorRate()
    for prediction, reference, *_ in PAIRS[:4]:
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == {"wer": 3 / 12}


def test_nothing_is_fetched_or_written(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "socket", None)
    monkeypatch.chdir(tmp_path)
    CharacterErrorRate(cache_dir=str(tmp_path)).compute(predictions=["a"], references=["b"])
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == []
