"""The report of a data set names each bad record once, whoever met it."""

import os

import numpy as np
from broken_data import write_picture_table
from torch.utils.data import DataLoader

from d2v_train.data.decoding import decode_image
from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.report import BadRecord, DataReport
from d2v_train.data.rows import MemoryRows
from d2v_train.data.tables import (
    Table,
)


def texts(*values):
    return RawDataset("text", Table(list(values)), source="here", split="train")


def test_each_step_reports_all_that_it_met_also_what_was_met_before():
    data = texts("a", "", "c")
    for _ in range(2):
        report = DataReport()
        assert data.read(1, report)["text"] == "c"
        assert list(report.bad.values()) == [BadRecord("text", "here", "train", 1, "row 1", "empty", "no text")]
        assert report.draws == report.bad_draws == {"text": 1}, "the one that stood in was not asked for"


def test_a_damaged_folder_counts_as_one_when_it_is_drawn_once():
    data = texts(*["good"] * 1000, *[""] * 80, *["good"] * 1000)
    report = DataReport()
    data.read(1000, report)
    assert len(report.bad) == 80 and report.draws == report.bad_draws == {"text": 1}


def test_what_could_not_be_read_once_is_not_read_again_but_for_missing_files(tmp_path):
    picture = tmp_path / "late.png"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    data = RawDataset("vision", Table([picture, tmp_path / "broken.png", np.zeros((4, 4), np.uint8)]))
    assert data[0]["image"].size == (4, 4) and data[1]["image"].size == (4, 4)
    for name in ("late.png", "broken.png"):
        decode_image(np.zeros((9, 9), np.uint8)).save(tmp_path / name)
    assert data[0]["image"].size == (9, 9) and data[1]["image"].size == (4, 4)


def test_rows_without_a_picture_in_a_table(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    reasons = write_picture_table(tmp_path / "pictures.parquet")
    data = open_dataset("vision", str(tmp_path / "pictures.parquet"))
    report = DataReport()
    assert [data.read(row, report)["image"].size for row in range(6)] == [(8, 8)] * 6
    assert {record.row: record.reason for record in report.bad.values()} == reasons


def test_names_that_are_no_text_can_be_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    data = RawDataset("vision", Table(MemoryRows([b"", np.zeros((4, 4), np.uint8)], [name, "good"])))
    report = DataReport()
    data.read(0, report)
    assert [record.name.encode() for record in report.bad.values()] == [b"caf\\udce9.png"]


def test_a_table_that_cannot_be_read_is_a_bad_sample():
    class Torn(list):
        def __getitem__(self, index):
            if index == 0:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    data = RawDataset("text", Table(Torn(["a", "b"])))
    report = DataReport()
    assert data.read(0, report)["text"] == "b"
    assert [record.detail for record in report.bad.values()] == ["OSError: the disk is gone"]


def test_bad_records_are_counted_once_however_often_they_are_read():
    data = texts("a", "")
    for _ in range(3):
        data[1]
    assert data.bad.counts() == {"empty": 1}


def test_few_bad_records_are_logged_and_many_are_not(caplog):
    data = texts("good", *[""] * 50)
    data[1]
    assert len(caplog.records) == 6 and "row 5" in caplog.text and "row 6" not in caplog.text
    assert data.bad.total == 50


def test_what_workers_find_is_seen_by_the_main_process():
    data = texts("a", "", "c", b"\xff", "e", "")
    loader = DataLoader(data, batch_size=None, num_workers=2)
    assert [record["text"] for record in loader] == ["a", "c", "c", "e", "e", "a"]
    assert data.bad.counts() == {"empty": 2, "not UTF-8": 1}
