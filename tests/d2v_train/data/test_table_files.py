import json

import datasets
import pytest

from d2v_train.data.table_files import find_tables, format_of, is_saved, split_of


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def shown(found, folder):
    return {split: [path.removeprefix(f"{folder}/") for path in files] for split, files in found.splits.items()}


@pytest.mark.parametrize(
    "name, kind",
    [
        ("a.PARQUET", "parquet"),
        ("a.tar.gz", "webdataset"),
        ("a.jsonl", "jsonl"),
        ("a.json", "json"),
        ("a.tsv", "tsv"),
        ("a.csv.gz", "csv"),
        ("https://x/a.csv?download=1", "csv"),
        ("a.txt", None),
        ("csv", None),
        ("a.parquet.bak", None),
    ],
)
def test_formats_are_told_by_suffixes(name, kind):
    assert format_of(name) == kind


@pytest.mark.parametrize(
    "name, split",
    [
        ("train-00000-of-00003.parquet", "train"),
        ("my_test.csv", "test"),
        ("test/part-0.parquet", "test"),
        ("data/validation-0.parquet", "validation"),
        ("contest.csv", None),
        ("latest.csv", None),
        ("strain.parquet", None),
        ("part-0.parquet", None),
        ("dev.tsv", "dev"),
    ],
)
def test_splits_are_told_by_folders_and_whole_words(name, split):
    assert split_of(name) == split


def test_files_of_a_folder_by_split(tmp_path):
    folder = touch(tmp_path, "train-1.parquet", "train-0.parquet", "test.parquet", ".hidden/x.parquet", "README.md")
    found = find_tables(folder)
    assert shown(found, folder) == {"train": ["train-0.parquet", "train-1.parquet"], "test": ["test.parquet"]}
    assert found.left_out == {"not a table": ["README.md"]}


def test_what_belongs_to_no_split_is_named(tmp_path):
    folder = touch(tmp_path, "train.csv", "test.csv", "sample_submission.csv", "train.json")
    found = find_tables(folder)
    assert shown(found, folder) == {"train": ["train.csv"], "test": ["test.csv"]}
    assert [names for _, names in sorted(found.left_out.items())] == [["sample_submission.csv"], ["train.json"]]


def test_files_without_splits_are_training_data_in_one_format(tmp_path):
    folder = touch(tmp_path, "b.csv", "a.csv", "config.json")
    found = find_tables(folder)
    assert shown(found, folder) == {"train": ["a.csv", "b.csv"]} and ["config.json"] in found.left_out.values()
    assert find_tables(touch(tmp_path / "none", "a.txt")) is None


@pytest.mark.parametrize("name", ["[2024]", "set?", "a*b", "100% ä: ~"])
def test_paths_are_literal(tmp_path, name):
    folder = touch(tmp_path / name, "train.csv")
    assert find_tables(folder).splits == {"train": [str(folder / "train.csv")]}
    assert find_tables(folder / "train.csv").splits == {"train": [str(folder / "train.csv")]}


def test_several_datasets_in_one_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="several datasets: cola, sst2"):
        find_tables(touch(tmp_path, "cola/train.parquet", "sst2/train.parquet"))
    years = find_tables(touch(tmp_path / "hive", "year=2023/a.parquet", "year=2024/a.parquet"))
    assert len(years.splits["train"]) == 2


def test_folders_of_save_to_disk(tmp_path):
    data = datasets.Dataset.from_dict({"text": list("abcd")})
    data.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "two")
    assert is_saved(tmp_path / "one") and is_saved(tmp_path / "two") and not is_saved(tmp_path)
    found = find_tables(tmp_path / "one")
    assert shown(found, tmp_path / "one") == {"train": ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]}
    assert list(find_tables(tmp_path / "two").splits) == ["test", "train"]
    (tmp_path / "one" / "state.json").write_text("{")
    assert find_tables(tmp_path / "one") == found
    (tmp_path / "one" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "x.arrow"}]}))
    assert shown(find_tables(tmp_path / "one"), tmp_path / "one") == {"train": ["x.arrow"]}
