"""What folders mean: splits, classes or places."""

import pytest

from d2v_train.data.folder_splits import FolderLevels, classes_of, split_family, splits_meant
from d2v_train.data.tables import SplitNotFoundError


def levels(*folders):
    """Levels of a source with two files in each folder."""
    names = sorted(f"{folder}/{number}.png".lstrip("/") for folder in folders for number in range(2))
    return FolderLevels.of(names), names


@pytest.mark.parametrize(
    "folders",
    [
        ("car", "plane", "train"),
        ("car", "plane", "test"),
        ("val", "bus"),
        ("train", "bus"),
        ("Train", "ship", "car"),
        ("train_station", "test_rig", "airport"),
        ("train/steam", "car/red", "plane/jet"),
        ("extra", "unlabeled"),
        ("a", "b"),
    ],
)
def test_folders_named_like_one_split_beside_others_are_classes(folders):
    found, names = levels(*folders)
    assert not found.splits and {found.split_of(name) for name in names} == {"train"}
    assert set(classes_of(names, found)) == {folder.split("/")[0] for folder in folders}


@pytest.mark.parametrize(
    "folders, splits",
    [
        (("train", "test"), {"train", "test"}),
        (("train/cat", "train/dog", "val/cat"), {"train", "val"}),
        (("train", "extra"), {"train", "extra"}),
        (("train/a", "unlabeled"), {"train", "unlabeled"}),
        (("train", "test", "all"), {"train", "test", "all"}),
        (("train/cat", "train/dog", "more/cat", "more/dog"), {"train", "more"}),
        (("train2017", "val2017"), {"train2017", "val2017"}),
        (("train-clean-100/19/198", "dev-clean/84/121"), {"train-clean-100", "dev-clean"}),
        (("TRAIN/cat", "TEST/cat"), {"train", "test"}),
        (("train",), {"train"}),
        (("test/cat", "test/dog"), {"test"}),
        (("data/set/train/cat", "data/set/test/dog"), {"train", "test"}),
    ],
)  # fmt: skip
def test_folders_of_splits(folders, splits):
    found, names = levels(*folders)
    assert {found.split_of(name) for name in names} == splits


def test_classes_are_the_first_folders_below_the_splits():
    found, names = levels("train/cat/siamese", "train/dog", "test/cat")
    assert classes_of(names, found) == ["cat", "cat", "cat", "cat", "dog", "dog"]
    found, names = levels("pictures/cat", "pictures/dog/small")
    assert classes_of(names, found) == ["cat", "cat", "dog", "dog"]
    found, names = levels("pictures/all")
    assert classes_of(names, found) == [None, None]


def test_files_at_the_root_have_no_class_and_beside_splits_no_split():
    found, names = levels("", "cat", "dog")
    assert classes_of(names, found) == [None, None, "cat", "cat", "dog", "dog"]
    found, names = levels("", "train", "test")
    assert [found.split_of(name) for name in names] == [None, None, "test", "test", "train", "train"]


def test_names_of_kinds_of_splits():
    assert split_family("train-clean-100") == split_family("Training") == "train"
    assert split_family("dev_other") == split_family("val2017") == "validation" and split_family("test.1") == "test"
    assert split_family("trains") is split_family("station") is split_family("2019") is None


@pytest.mark.parametrize(
    "wanted, found",
    [
        ("train", ["train-clean-100", "train-other-500"]),
        ("train.clean.100", ["train-clean-100"]),
        ("train-other-500", ["train-other-500"]),
        ("validation", ["dev-clean"]),
        ("test", ["test-clean"]),
    ],
)
def test_splits_of_librispeech(wanted, found):
    existing = ["dev-clean", "test-clean", "train-clean-100", "train-other-500"]
    assert splits_meant(wanted, existing, "here") == found


def test_test_and_validation_stand_for_one_another_only_where_they_did():
    assert splits_meant("validation", ["train", "test"], "here") == ["test"]
    assert splits_meant("train", ["train", "train2"], "here") == ["train"]
    with pytest.raises(SplitNotFoundError, match="here.*dev-clean") as error:
        splits_meant("train", ["dev-clean"], "here")
    assert error.value.existing == ["dev-clean"]


@pytest.mark.parametrize("place", ["images", "unknown", "all", "pics/of"])
def test_a_folder_that_holds_a_whole_split_is_no_class_unless_others_have_it(place):
    names = [f"train/{name}/images/1.png" for name in ("n01", "n02")] + [f"test/{place}/{i}.png" for i in range(2)]
    assert classes_of(names, FolderLevels.of(names)) == ["n01", "n02", None, None]
    names[2:] = ["test/n01/1.png", "test/n01/2.png"]
    assert classes_of(names, FolderLevels.of(names)) == ["n01", "n02", "n01", "n01"]
