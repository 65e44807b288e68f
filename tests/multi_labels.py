"""Data sets whose samples have several classes each, made of data sets with one."""

import dataclasses

import numpy as np

from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import Table


def texts_with(labels, names=None) -> RawDataset:
    """Texts with rows of flags, or with other labels."""
    table = Table([f"text {number}" for number in range(len(labels))], np.array(labels), label_names=names)
    return RawDataset("text", table)


def with_sets(raw: RawDataset, sets: dict[str, tuple[str, ...] | None]) -> RawDataset:
    """The data set with a set of classes instead of each class; None for a missing label."""
    names = sorted({name for chosen in sets.values() for name in chosen or ()})
    rows = []
    for label in raw.table.labels:
        chosen = sets[raw.table.label_names[label]]
        rows.append([np.nan] * len(names) if chosen is None else [name in chosen for name in names])
    labels = np.array(rows, dtype=np.float32)
    table = dataclasses.replace(raw.table, labels=labels, label_names=names)
    return RawDataset(raw.modality, table, raw.rows, raw.settings, raw.source, raw.split)


def read_sets(monkeypatch, sets: dict[str, tuple[str, ...] | None]) -> None:
    """Lets every data set of images or recordings have sets of classes."""
    monkeypatch.setattr(
        "d2v_train.data.records.open_dataset", lambda *args, **more: with_sets(open_dataset(*args, **more), sets)
    )
