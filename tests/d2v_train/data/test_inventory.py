"""The summary of an account, and when it is logged."""

import logging
from types import SimpleNamespace

from d2v_train.data.inventory import Inventory, joined_inventory, log_inventories, printable


def test_summary_names_the_files_that_are_left_out():
    inventory = Inventory(
        "pictures", "pictures, flat", {"train": 2}, ["a.png", "b.png"], notes=["a sentence"], hidden=3
    )
    inventory.leave_out("c.xyz", "unknown suffix .xyz")
    assert inventory.files == 3
    assert inventory.lines() == [
        "pictures: pictures, flat; samples: train 2; 2 of 3 files used; 3 hidden",
        "  not used, unknown suffix .xyz: 1 (c.xyz)",
        "  note: a sentence",
    ]
    assert Inventory("builtin", "the built-in data", {"train": 2, "test": None}).lines() == [
        "builtin: the built-in data; samples: train 2, test (not counted)"
    ]
    for number in range(4):
        inventory.leave_out(f"{number}.m4a", "a recording")
    assert inventory.lines()[2] == "  not used, a recording: 4 (0.m4a, 1.m4a, 2.m4a, ...)"
    assert inventory.to_dict()["left_out"]["a recording"] == ["0.m4a", "1.m4a", "2.m4a", "3.m4a"]


def test_names_of_any_bytes_are_printed_on_one_line():
    assert printable("grün [1].png") == "grün [1].png"
    assert printable("caf\udce9\n.png") == "caf\\udce9\\n.png"


def test_samples_of_splits_that_were_opened_one_by_one_are_joined():
    one = Inventory("s", "l", {"train": 5, "test": None}, ["a"])
    assert joined_inventory([one, Inventory("s", "l", {"train": None, "test": 3}, ["a"])]).samples == {
        "train": 5,
        "test": 3,
    }
    assert joined_inventory([one]).samples == {"train": 5, "test": None} and one.samples["test"] is None


def test_a_source_is_logged_once_with_all_splits(caplog):
    def dataset(modality, source, samples):
        return SimpleNamespace(modality=modality, source=source, inventory=Inventory(source, "files", samples))

    data = [dataset("audio", "a", {"train": 5, "test": None}), dataset("audio", "a", {"train": None, "test": 3})]
    data += [dataset("vision", "a", {"train": 1}), SimpleNamespace(modality="text", source="b", inventory=None)]
    with caplog.at_level(logging.INFO):
        log_inventories(data)
    assert [record.getMessage() for record in caplog.records] == [
        "Data for audio: a: files; samples: train 5, test 3",
        "Data for vision: a: files; samples: train 1",
    ]
