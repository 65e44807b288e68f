"""Labelled texts from files and folders, their classes, and what is wrong with them."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from d2v_train.data.tables import UnclearColumnError
from d2v_train.finetuning.class_labels import class_target
from d2v_train.finetuning.texts.arguments import TextDataArguments
from d2v_train.finetuning.texts.data import open_texts


ROWS = [("a first text", 1), ("a second text", 0), ("a third text", 1)]


def write_csv(path, rows=ROWS, names=("sentence", "label"), delimiter=","):
    lines = [delimiter.join(names), *(delimiter.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_parquet(path, rows=ROWS, names=None):
    label = Value("int64") if names is None else ClassLabel(names=names)
    columns = {"sentence": [row[0] for row in rows], "label": [row[1] for row in rows]}
    Dataset.from_dict(columns, features=Features({"sentence": Value("string"), "label": label})).to_parquet(path)


def texts_of(raw) -> list[str]:
    return [raw[i]["text"] for i in range(len(raw))]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files_of_every_kind_are_read(tmp_path, suffix):
    path = tmp_path / f"anything.{suffix}"
    if suffix == "parquet":
        write_parquet(path)
    elif suffix.startswith("json"):
        path.write_text("".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in ROWS))
    else:
        write_csv(path, delimiter="\t" if suffix == "tsv" else ",")
    raw = open_texts(TextDataArguments(train_file=str(path)), None, None).open("train")
    assert texts_of(raw) == [text for text, _ in ROWS] and raw.labels.tolist() == [1, 0, 1]


def test_the_splits_of_a_folder_are_told_by_the_names_of_its_files(tmp_path):
    inner = tmp_path / "mnli"
    inner.mkdir()
    for number, name in enumerate(["train-00000-of-00002", "train-00001-of-00002"]):
        write_parquet(inner / f"{name}.parquet", [(f"train {number}", 0)])
    write_parquet(inner / "validation_matched-00000-of-00001.parquet", [("matched", 0)])
    write_csv(inner / "dev_mismatched.csv", [("mismatched", 0)])
    (inner / "README.md").write_text("no data")
    source = open_texts(TextDataArguments(dataset_name=str(tmp_path)), "mnli", ["sentence"])
    assert {split: texts_of(source.open(split)) for split in source.splits} == {
        "train": ["train 0", "train 1"],
        "validation_matched": ["matched"],
        "validation_mismatched": ["mismatched"],
    }
    assert set(open_texts(TextDataArguments(dataset_name=str(inner)), "mnli", None).splits) == set(source.splits)
    with pytest.raises(ValueError, match="'cola'"):
        open_texts(TextDataArguments(dataset_name=str(tmp_path), dataset_config_name="cola"), "mnli", None)


def test_a_file_takes_the_place_of_a_split(tmp_path):
    write_csv(tmp_path / "train.csv")
    other = write_csv(tmp_path / "other.csv", [("another", 0)])
    source = open_texts(TextDataArguments(dataset_name=str(tmp_path), validation_file=other), None, None)
    assert len(source.open("train")) == 3 and texts_of(source.open("validation")) == ["another"]


def test_columns_are_found_or_named(tmp_path):
    path = write_csv(tmp_path / "pairs.csv", [("one", "two", "x", 0)], ("premise", "hypothesis", "other", "gold"))
    raw = open_texts(TextDataArguments(train_file=path, label_column="gold"), None, None).open("train")
    assert raw[0]["text"] == "one" and raw[0]["text_pair"] == "two" and raw.labels.tolist() == [0]
    raw = open_texts(TextDataArguments(train_file=path, text_column=["other"]), None, ["premise"]).open("train")
    assert texts_of(raw) == ["x"] and raw.labels is None
    for options in ({"text_column": ["text"]}, {"label_column": "text"}):
        with pytest.raises(ValueError, match="'text'"):
            open_texts(TextDataArguments(train_file=path, **options), None, None).open("train")


def test_a_column_that_cannot_be_told_is_named_with_the_option_of_the_program(tmp_path):
    path = write_csv(tmp_path / "two.csv", [("one", "two", 0)], ("left", "right", "label"))
    with pytest.raises(UnclearColumnError, match="left, right. Name it with --text_column\\.$"):
        open_texts(TextDataArguments(train_file=path), None, None).open("train")


def test_some_samples_are_drawn_in_order(tmp_path):
    path = write_csv(tmp_path / "train.csv", [(f"text {number}", number % 2) for number in range(40)])
    source = open_texts(TextDataArguments(train_file=path), None, None)
    some = source.open("train").subset(10)
    assert len(some) == 10 and some.rows.tolist() == sorted(set(some.rows.tolist()))
    assert some.rows.tolist() == source.open("train").subset(10).rows.tolist() != list(range(10))
    assert len(source.open("train").subset(100)) == 40


def test_sources_that_cannot_be_opened_say_why(tmp_path):
    with pytest.raises(ValueError, match="--task_name"):
        open_texts(TextDataArguments(), None, None)
    with pytest.raises(FileNotFoundError, match="missing.csv"):
        open_texts(TextDataArguments(train_file="missing.csv"), None, None)
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match="notes.txt"):
        open_texts(TextDataArguments(train_file=str(tmp_path / "notes.txt")), None, None)
    with pytest.raises(ValueError, match="notes.txt"):
        open_texts(TextDataArguments(dataset_name=str(tmp_path)), None, None)
    (tmp_path / "cola").mkdir()
    with pytest.raises(ValueError, match="notes.txt.*--task_name"):
        open_texts(TextDataArguments(dataset_name=str(tmp_path)), None, None)
    (tmp_path / "broken.parquet").write_text("this is no parquet")
    with pytest.raises(ValueError, match="broken.parquet"):
        open_texts(TextDataArguments(train_file=str(tmp_path / "broken.parquet")), None, None)


def opened(tmp_path, labels, names=None, kind="csv"):
    path = tmp_path / f"labels_{len(list(tmp_path.iterdir()))}.{kind}"
    rows = [(f"text {number}", label) for number, label in enumerate(labels)]
    if kind == "csv":
        write_csv(path, rows)
    else:
        write_parquet(path, rows, names)
    return open_texts(TextDataArguments(train_file=str(path)), None, None).open("train")


def test_a_text_that_stands_in_for_an_empty_one_brings_its_own_label(tmp_path):
    raw = opened(tmp_path, [0, 1])
    raw.table.values.values[0] = " "
    target = class_target(raw, ["a", "b"], "training")
    assert [target(raw[i]) for i in range(2)] == [1, 1]
    assert np.flatnonzero(raw.bad.flags).tolist() == [0]


def train_of(path, **options):
    return open_texts(TextDataArguments(train_file=str(path), **options), None, None).open("train")


def test_quotes_between_tabs_keep_every_row(tmp_path):
    texts = ["first one", '"Second is what he said', 'third "quoted" word', "fourth", 'fifth "end', '""', '"']
    rows = [(text, number % 2) for number, text in enumerate(texts)]
    raw = train_of(write_csv(tmp_path / "train.tsv", rows, delimiter="\t"))
    assert texts_of(raw) == texts and raw.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("suffix, delimiter", [("csv", ","), ("csv", ";"), ("csv", "|"), ("tsv", "\t")])
def test_words_for_nothing_are_texts_and_classes(tmp_path, suffix, delimiter):
    words = ["NA", "null", "None", "nan", "N/A", "#N/A", "<NA>"]
    raw = train_of(write_csv(tmp_path / f"a.{suffix}", [(word, 0) for word in words], delimiter=delimiter))
    assert texts_of(raw) == words
    rows = [("a b", "None"), ("c d", "hate"), ("e f", ""), ("g h", "-1"), ("i j", "None")]
    raw = train_of(write_csv(tmp_path / f"b.{suffix}", rows, delimiter=delimiter))
    assert raw.labels.tolist() == [0, 1, -1, -1, 0] and raw.label_names == ["None", "hate"]


def test_another_encoding_is_an_option(tmp_path):
    (tmp_path / "a.csv").write_bytes("sentence,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"Line 2 of .*a\.csv is not UTF-8.*encoding"):
        train_of(tmp_path / "a.csv")
    assert texts_of(train_of(tmp_path / "a.csv", encoding="latin-1")) == ["café"]


def test_every_layout_of_a_folder_is_opened(tmp_path):
    from datasets import DatasetDict

    splits = {"train": Dataset.from_dict({"sentence": ["a", "b"]}), "test": Dataset.from_dict({"sentence": ["c"]})}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    for place in ("data", "nested"):
        for split, part in splits.items():
            name = f"data/{split}-0.parquet" if place == "data" else f"{split}/0.parquet"
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            part.to_parquet(tmp_path / place / name)
    for place in ("saved", "data", "nested"):
        source = open_texts(TextDataArguments(dataset_name=str(tmp_path / place)), None, None)
        assert texts_of(source.open("train")) == ["a", "b"] and texts_of(source.open("test")) == ["c"]


def test_a_broken_file_among_others_is_one_bad_sample(tmp_path):
    for number in range(3):
        write_parquet(tmp_path / f"train-{number}.parquet")
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1")
    raw = open_texts(TextDataArguments(dataset_name=str(tmp_path)), None, None).open("train")
    assert len(raw) == 7 and raw.labels[3] == -1
    with pytest.raises(ValueError, match="train-1.parquet"):
        raw.load(3)
    assert raw.bad.total == 1


def test_scores_that_are_missing_are_named(tmp_path):
    from d2v_train.finetuning.texts.data import score_target

    for labels in ([1, 2, ""], [1.5, 2, ""]):
        with pytest.raises(ValueError, match="row 2"):
            score_target(opened(tmp_path, labels), "training")
