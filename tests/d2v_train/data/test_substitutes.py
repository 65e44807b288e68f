"""Substitutes: a bad sample is replaced by a good one, under its own id."""

import numpy as np
import pytest
import torch

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport, NoUsableSample
from d2v_train.data.rows import Rows
from d2v_train.data.substitutes import candidates, check_item, usable_item
from d2v_train.data.tables import (
    SourceSettings,
    Table,
)


def texts(*values):
    return RawDataset("text", Table(list(values)), source="here", split="train")


@pytest.mark.parametrize("size", [1, 3, 1000, 1001, 100_000])
def test_stand_ins_differ_and_reach_beyond_the_neighbours(size):
    found = list(candidates(size - 1, size))
    assert len(set(found)) == len(found) == min(size, 1000) and found[0] == size - 1
    assert set(found) <= set(range(size))
    if size > 1000:
        assert found[1] == 0 and max(found[1:]) - min(found) > 0.99 * size - 100


def test_samples_without_end_are_not_tried():
    class Empty(Rows):
        tries = 0

        def __len__(self):
            return 10**6

        def __getitem__(self, index):
            self.tries += 1
            return ""

    empty = Empty()
    with pytest.raises(NoUsableSample, match="1000 of the 1000000"):
        RawDataset("text", Table(empty))[5]
    assert 1000 <= empty.tries < 1100


def test_what_fails_in_the_transform_is_replaced_under_its_own_id():
    def transform(record, seed):
        if record["text"] == "b" and seed == 1:
            raise KeyError("no such word")
        value = float("nan") if record["text"] == "c" else 1.0
        return {"input_values": torch.tensor([value]), "id": record["id"], "text": record["text"]}

    data = texts("a", "b", "c", "d")
    report = DataReport()
    items = [usable_item(data, index, transform, "text", 1, report) for index in range(4)]
    assert [item["text"] for item in items] == ["a", "d", "d", "d"] and [item["id"] for item in items] == [0, 1, 2, 3]
    reasons = {record.row: (record.reason, record.detail) for record in report.bad.values()}
    assert reasons == {
        1: ("transform failed", "KeyError: 'no such word'"),
        2: ("non-finite", "NaN or infinite values in input_values after the transform"),
    }
    assert usable_item(data, 1, transform, "text", seed=0)["text"] == "b", "another seed may succeed"


@pytest.mark.parametrize("values", [[np.inf, -np.inf], [1.0, np.nan], [np.inf, 1.0]])
def test_items_are_finite_though_their_sum_may_not_be(values):
    check_item({"input_values": torch.tensor([3e38, 3e38])})
    with pytest.raises(BadSample, match="pixel_values"):
        check_item({"input_ids": torch.arange(5), "pixel_values": torch.tensor(values)})


def test_a_transform_that_always_fails_is_an_error():
    def transform(record, seed):
        raise RuntimeError("out of order")

    with pytest.raises(NoUsableSample, match="out of order"):
        usable_item(texts("a", "b"), 0, transform, "text", seed=0)


def test_texts_without_tokens_are_left_out():
    def transform(record, seed):
        return {"input_ids": torch.arange(2 if record["text"] == "a" else 3), "id": record["id"]}

    report = DataReport()
    assert len(usable_item(texts("a", "b"), 0, transform, "text", 0, report)["input_ids"]) == 3
    assert [record.reason for record in report.bad.values()] == ["empty"]


def test_a_bad_record_is_replaced_by_the_next_good_one_under_its_own_id():
    data = texts("a", "", b"\xff\xfe", "d", " ")
    assert [data[i]["text"] for i in range(5)] == ["a", "d", "d", "d", "a"]
    assert [data[i]["id"] for i in range(5)] == list(range(5))
    assert data.bad.counts() == {"empty": 2, "not UTF-8": 1}
    assert data.bad.total == 3
    report = data.bad.report()
    assert "3 are unusable" in report and "row 1, row 4" in report and "not UTF-8: 1 (row 2)" in report


def test_samples_that_were_only_converted_are_not_called_bad():
    data = texts("a", "b")
    data.bad.mark(1, "resampled")
    assert data.bad.report() == "All 2 samples can be used. Noted:\n  resampled: 1"


def test_only_bad_records_is_an_error():
    data = texts("", " ")
    with pytest.raises(ValueError, match="2 samples"):
        data[0]
    with pytest.raises(ValueError, match="2 samples"):
        texts("", " ").without_bad()


def test_raise_instead_of_substitute_and_leaving_out():
    table = Table(["a", "", "c"])
    with pytest.raises(BadSample):
        RawDataset("text", table, settings=SourceSettings(on_bad="raise"))[1]
    good = RawDataset("text", table).without_bad()
    assert [good[i]["text"] for i in range(len(good))] == ["a", "c"]
