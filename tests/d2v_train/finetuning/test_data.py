"""A part of the training data that is held out where there is no validation split."""

import numpy as np
import pytest

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.finetuning.data import hold_out_validation


def texts(labels) -> RawDataset:
    return RawDataset("text", Table([f"text {row}" for row in range(len(labels))], labels=np.asarray(labels)))


@pytest.mark.parametrize("labels", [[0] * 30 + [1] * 10, np.linspace(0, 1, 40, dtype=np.float32), [0] * 39 + [-1]])
def test_both_parts_are_all_and_the_same_every_time(labels, caplog):
    kept, held = hold_out_validation(texts(labels), 0.2, "There is none.")
    assert sorted([*kept.rows, *held.rows]) == list(range(40)) and len(held) == 8
    assert "There is none. 20 % of" in caplog.text and "(8, 32 stay)" in caplog.text
    again = hold_out_validation(texts(labels), 0.2, "There is none.")
    assert [part.rows.tolist() for part in again] == [kept.rows.tolist(), held.rows.tolist()]


def test_one_sample_cannot_be_divided():
    with pytest.raises(ValueError, match="There is none. Nothing can be held out"):
        hold_out_validation(texts([0.5]), 0.2, "There is none.")


def test_classes_are_divided_one_by_one():
    _, held = hold_out_validation(texts([0] * 30 + [1] * 10), 0.2, "There is none.")
    assert np.bincount(held.labels).tolist() == [6, 2]
