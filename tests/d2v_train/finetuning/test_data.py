"""A part of the training data that is held out where there is no validation split."""

import numpy as np
import pytest
import torch
from model_factory import tiny_config

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import Table
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset, hold_out_validation, stack_labels


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


class Records:
    """Three samples; the second has no label."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"id": index, "text": "abc"[: index + 1], "label": None if index == 1 else index}


def draw(record, seed):
    return {"id": record["id"], "input_ids": np.array([seed % 97, *range(len(record["text"]))])}


def test_samples_are_drawn_from_seed_epoch_and_place_alone():
    dataset = FinetuningDataset(Records(), draw, seed=1)
    first = [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert first == [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert dataset[2]["labels"] == 2 and "labels" not in dataset[1]
    dataset.set_epoch(1)
    assert dataset.epoch == 1
    second = [dataset[i]["input_ids"].tolist() for i in range(3)]
    assert second != first
    assert [FinetuningDataset(Records(), draw, seed=2)[i]["input_ids"].tolist() for i in range(3)] not in (
        first,
        second,
    )
    assert FinetuningDataset(Records(), draw, target=lambda record: 7.5)[0]["labels"] == 7.5


def test_workers_that_outlive_an_epoch_hear_of_the_next():
    dataset = FinetuningDataset(Records(), draw, seed=1)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=1, persistent_workers=True, collate_fn=lambda item: item["input_ids"][0]
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert [int(first) for first in loader] == [int(dataset[i]["input_ids"][0]) for i in range(3)]


def test_batches_are_padded_and_labelled():
    config = tiny_config("text")
    collate = FinetuningCollator(config)
    batch = collate([{"input_ids": [0, 5, 2], "labels": 1}, {"input_ids": [0, 2], "labels": 0}])
    assert batch["input_ids"].tolist() == [[0, 5, 2], [0, 2, config.text_config.pad_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.int64
    assert "labels" not in collate([{"input_ids": [0, 2]}])


@pytest.mark.parametrize(
    "labels, expected, dtype",
    [
        ([1, 2], [1, 2], torch.int64),
        ([1.5, 2.0], [1.5, 2.0], torch.float32),
        ([[0.0, 1.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]], torch.float32),
        ([[1, 2, 3], [4]], [[1, 2, 3], [4, -100, -100]], torch.int64),
    ],
)
def test_labels_of_every_kind_become_one_tensor(labels, expected, dtype):
    stacked = stack_labels(labels)
    assert stacked.tolist() == expected and stacked.dtype == dtype
