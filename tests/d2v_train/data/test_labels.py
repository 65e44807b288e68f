"""Labels: parts held out class by class, and labels that are no class."""

import numpy as np
import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.labels import MissingLabelsError, hold_out, missing_labels, whole_label, without_unlabelled
from d2v_train.data.records import RawDataset
from d2v_train.data.rows import JoinedRows, MemoryRows
from d2v_train.data.tables import Table


def dataset(labels):
    return RawDataset("text", Table([f"text {number}" for number in range(len(labels))], labels=np.array(labels)))


def texts(part):
    return [part[index]["text"] for index in range(len(part))]


def test_a_share_of_every_class_is_held_out_and_nothing_is_lost():
    labels = [0] * 40 + [1] * 10 + [2] * 2 + [3]
    data = dataset(labels)
    rest, held = hold_out(data, share=0.2, seed=1)
    assert np.bincount(held.labels, minlength=4).tolist() == [8, 2, 1, 0]
    assert sorted(texts(rest) + texts(held)) == sorted(texts(data))
    order = [int(text.split()[1]) for text in texts(held)]
    assert order == sorted(order), "in the order of the data set"
    assert texts(hold_out(data, seed=1)[1]) == texts(held) != texts(hold_out(data, seed=2)[1])


def test_parts_are_limited_to_a_random_choice():
    rest, held = hold_out(dataset([0, 1] * 50), max_samples=7, share=0.3)
    assert len(rest) == len(held) == 7 and not set(texts(rest)) & set(texts(held))


def test_nothing_can_be_held_out_of_single_samples():
    with pytest.raises(ValueError, match="4 training samples"):
        hold_out(dataset([0, 1, 2, 3]))


@pytest.mark.parametrize("label, message", [(None, "Sample 5 has no label"), (-1, "no label"), (2.5, "real number")])
def test_what_is_no_class_is_said(label, message):
    with pytest.raises(MissingLabelsError, match=message):
        whole_label(label, 5)
    assert whole_label(np.int64(3), 5) == 3


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([0, -1, 1, -1], [0, 2]),
        ([0.5, np.nan, 2.0], [0, 2]),
        (np.float32([[0, 1], [np.nan, np.nan], [0, 0]]), [0, 2]),
        ([3, 1], [0, 1]),
    ],
)
def test_samples_without_a_label_are_left_out_and_named(labels, kept, caplog):
    data = dataset(labels)
    rest = without_unlabelled(data, missing_labels(data), "training data")
    assert texts(rest) == [f"text {number}" for number in kept]
    lost = len(labels) - len(kept)
    assert rest.bad.total == lost and rest.bad.size == len(labels)
    assert rest.bad.counts() == ({"no label": lost} if lost else {})
    if lost:
        assert rest.bad.names("no label")[0] == "row 1" and "no label: " in caplog.text
    else:
        assert rest is data and not rest.bad


def test_what_was_left_out_is_counted_once():
    data = dataset([0, -1, 1, 0, 1, 0, 1])
    rest = without_unlabelled(data, missing_labels(data), "data")
    rest.bad.mark(0, "empty")
    assert rest.bad.total == 2 and rest.bad.counts() == {"empty": 1, "no label": 1}
    assert "Of 7 samples, 2 are unusable" in rest.bad.report()
    parts = hold_out(rest, share=0.3)
    assert [part.bad.total for part in parts] == [1, 0] and rest.select([1, 2]).bad.names("no label") == ["row 1"]


def test_rows_of_damaged_files_are_not_said_to_lack_a_label():
    broken = BadSample("unreadable", "a.parquet: cut")
    parts = [MemoryRows(["a", broken, "b"]), MemoryRows([("a", "b"), (broken, broken)]), MemoryRows(["c"])]
    assert list(JoinedRows(parts).problems()) == [1, 4] and MemoryRows(["a"]).problems() == {}
    table = Table(JoinedRows(parts), labels=np.array([0, -1, -1, 1, -1, 1]))
    data = RawDataset("text", table, np.array([0, 1, 2, 4]))
    kept = without_unlabelled(data, missing_labels(data), "training data")
    assert len(kept) == 1 and kept.bad.before.counts() == {"unreadable": 2, "no label": 1}
