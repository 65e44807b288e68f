"""Class labels: names or numbers as they occur, and those that are no class."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from multi_labels import texts_with

from d2v_train.finetuning.class_labels import (
    as_classes,
    class_fields,
    class_names,
    class_target,
    decide_multi_label,
    fraction_of_each_class,
    no_label,
    unlabelled,
    warn_missing_classes,
)
from d2v_train.finetuning.texts.arguments import TextDataArguments
from d2v_train.finetuning.texts.data import open_texts, score_target


ROWS = [("a first text", 1), ("a second text", 0), ("a third text", 1)]


def write_csv(path, rows=ROWS, names=("sentence", "label"), delimiter=","):
    lines = [delimiter.join(names), *(delimiter.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_parquet(path, rows=ROWS, names=None):
    label = Value("int64") if names is None else ClassLabel(names=names)
    columns = {"sentence": [row[0] for row in rows], "label": [row[1] for row in rows]}
    Dataset.from_dict(columns, features=Features({"sentence": Value("string"), "label": label})).to_parquet(path)


def opened(tmp_path, labels, names=None, kind="csv"):
    path = tmp_path / f"labels_{len(list(tmp_path.iterdir()))}.{kind}"
    rows = [(f"text {number}", label) for number, label in enumerate(labels)]
    if kind == "csv":
        write_csv(path, rows)
    else:
        write_parquet(path, rows, names)
    return open_texts(TextDataArguments(train_file=str(path)), None, None).open("train")


def ids(raw, names) -> list[int]:
    target = class_target(raw, names, "training")
    return [target(raw[i]) for i in range(len(raw))]


def test_classes_are_the_names_or_numbers_that_occur(tmp_path):
    words = opened(tmp_path, ["no", "yes", "maybe", "no"])
    assert class_names(words) == ["maybe", "no", "yes"]
    assert ids(words, ["maybe", "no", "yes"]) == [1, 2, 0, 1]
    ratings = opened(tmp_path, [5, 1, 3])
    assert class_names(ratings) == ["1", "3", "5"] and ids(ratings, ["1", "3", "5"]) == [2, 0, 1]
    named = opened(tmp_path, [0, 1], names=["bad", "good"], kind="parquet")
    assert class_names(named) == ["bad", "good"]
    # The model's own order of the same names counts.
    assert ids(named, ["good", "bad"]) == [1, 0]
    assert ids(opened(tmp_path, [1, 0]), ["unacceptable", "acceptable"]) == [1, 0]


@pytest.mark.parametrize(
    "labels, names, message",
    [
        ([0, 1, 2], ["a", "b"], "row 2.*a, b"),
        ([0, -1, 1], ["a", "b"], "row 1.*-1"),
        ([1, 0], ["1", "2", "3"], "row 1"),
        (["a", "c"], ["a", "b"], "row 1.*'c'"),
        ([0.5, 1.0], ["a", "b"], "scores"),
    ],
)
def test_labels_that_are_no_class_are_named(tmp_path, labels, names, message):
    with pytest.raises(ValueError, match=message):
        class_target(opened(tmp_path, labels), names, "training")


def test_tests_without_labels_have_none(tmp_path):
    assert class_target(opened(tmp_path, [-1, -1]), ["a", "b"], "test") is no_label
    assert score_target(opened(tmp_path, [-1.0, -1.0]), "test") is no_label
    raw = opened(tmp_path, [0.5, 2.5])
    target = score_target(raw, "training")
    assert [target(raw[0]), target(raw[1])] == [0.5, 2.5]
    with pytest.raises(ValueError, match="row 1"):
        score_target(opened(tmp_path, [0.5, ""]), "training")


FLAGS = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
NAMES = ["a, b", "{c}", "naïve"]


def flags_of(raw, names, part="training") -> list[list[float]]:
    target = class_target(raw, names, part, multi_label=True)
    return [target(raw[i]).tolist() for i in range(len(raw))]


def test_flags_are_matched_by_the_names_of_classes():
    raw = texts_with(np.float32(FLAGS), NAMES)
    assert class_names(raw) == NAMES and flags_of(raw, NAMES) == FLAGS
    assert flags_of(raw, ["naïve", "new", "a, b", "{c}"]) == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert class_names(texts_with(np.float32(FLAGS))) == ["0", "1", "2"]
    with pytest.raises(ValueError, match="row 1 of the training data has the class '{c}'"):
        class_target(raw, ["a, b", "naïve"], "training", multi_label=True)
    # A class that no sample has may be missing.
    assert flags_of(raw.select([0, 2]), ["a, b", "naïve"]) == [[1, 1], [0, 0]]


def test_one_class_per_sample_may_be_learned_as_a_set():
    raw = texts_with([2, 0], ["x", "y", "z"])
    assert flags_of(raw, ["z", "y", "x"]) == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="several classes each.*--problem_type multi_label"):
        class_target(texts_with(np.float32(FLAGS), NAMES), NAMES, "validation")


@pytest.mark.parametrize(
    ("raw", "names", "expected"),
    [
        (texts_with(np.float32([[0, 1], [np.nan, np.nan]]), ["x", "y"]), ["x", "y"], [[0, 1], [-100, -100]]),
        (texts_with([1, -1], ["x", "y"]), ["x", "y"], [[0, 1], [-100, -100]]),
        (texts_with(np.float32([[np.nan], [1]]), ["x"]), ["x"], [[-100], [1]]),
    ],
)
def test_flags_of_tests_may_be_missing(raw, names, expected):
    assert flags_of(raw, names, "test") == expected


@pytest.mark.parametrize(
    ("labels", "missing"),
    [
        ([0, -1, 1], [False, True, False]),
        ([0.5, float("nan")], [False, True]),
        ([[1.0, 0.0], [float("nan")] * 2], [False, True]),
        ([-1, -1], None),
        ([[float("nan")] * 2], None),
    ],
)
def test_which_samples_have_no_label(labels, missing):
    found = unlabelled(texts_with(labels))
    assert (None if found is None else found.tolist()) == missing


def test_a_test_set_with_some_labels_is_predicted_whole():
    target = class_target(texts_with([1, -1, 0], ["a", "b"]), ["a", "b"], "test")
    assert [target({"label": label}) for label in (1, -1, 0)] == [1, -100, 0]


@pytest.mark.parametrize(
    ("problem", "labels", "known", "expected"),
    [
        (None, FLAGS, None, True),
        (None, [0, 1], "multi_label_classification", False),
        ("multi_label_classification", [0, 1], None, True),
        (None, None, "multi_label_classification", True),
        ("single_label_classification", None, "multi_label_classification", False),
    ],
)
def test_whether_samples_have_several_classes(problem, labels, known, expected):
    training = None if labels is None else texts_with(labels)
    assert decide_multi_label(problem, SimpleNamespace(problem_type=known), training) is expected
    with pytest.raises(ValueError, match="--problem_type is single_label"):
        decide_multi_label("single_label_classification", None, texts_with(FLAGS))


def test_shares_of_sets_of_classes_and_classes_without_samples(caplog):
    flags = np.float32([[1, 0, 0]] * 10 + [[1, 1, 0]] * 4)
    chosen = fraction_of_each_class(flags, 0.5, seed=0)
    assert flags[chosen].sum(axis=0).tolist() == [7, 2, 0]
    warn_missing_classes(texts_with(flags, NAMES), NAMES)
    assert "1 of the 3 classes: naïve" in caplog.text


def test_two_classes_of_one_name_are_refused():
    names = ["a", 'quo"te', "", "new\nline", "ü,;|"]
    assert list(class_fields(names)["id2label"].values()) == names
    with pytest.raises(ValueError, match="name 'a'"):
        class_fields(["a", "b", "a"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0.0, float("nan"), 2.0], [0, -1, 2]),
        ([1.0, 0.0], [1, 0]),
        ([0.5, 1.0], [0.5, 1.0]),
        ([2, 1], [2, 1]),
        ([[1.0, 0.0]], [[1.0, 0.0]]),
    ],
)
def test_whole_numbers_of_a_column_with_empty_cells_are_classes(labels, expected):
    assert as_classes(texts_with(labels)).labels.tolist() == expected
