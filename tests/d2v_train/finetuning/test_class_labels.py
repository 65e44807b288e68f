"""Class labels: names or numbers as they occur, and those that are no class."""

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from d2v_train.finetuning.class_labels import class_names, class_target, no_label
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
