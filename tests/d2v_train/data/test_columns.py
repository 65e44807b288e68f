"""Columns: what they hold, and their cells."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from table_data import png

from d2v_train.data.columns import Column, DatasetRows, cell_of, columns_of, merge_columns


def test_rows_of_a_table_are_values_or_tuples_of_the_columns():
    table = datasets.Dataset.from_dict({"a": [1, 2], "b": ["x", "y"], "c": [0, 0]})
    assert list(DatasetRows(table, ["a"])) == [1, 2] and DatasetRows(table, ["a", "b"])[1] == (2, "y")
    assert DatasetRows(table, ["a"]).identity != DatasetRows(table, ["b"]).identity


def test_pictures_of_a_dataset_stay_encoded():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["n", "p"])})
    table = datasets.Dataset.from_dict({"image": [{"bytes": png(), "path": None}], "label": [1]}, features=features)
    rows = DatasetRows(table, ["image"])
    assert rows[0]["bytes"] == png() and rows.column("image")[0]["bytes"] == png()
    assert rows.schema["image"].feature == "Image" and rows.schema["label"].names == ("n", "p")


def test_types_of_columns():
    fields = {
        "s": pa.large_string(),
        "d": pa.dictionary(pa.int8(), pa.string()),
        "b": pa.binary(4),
        "l": pa.list_(pa.int64()),
        "f": pa.list_(pa.float32(), 3),
        "t": pa.struct({"bytes": pa.binary()}),
        "o": pa.bool_(),
        "n": pa.decimal128(5, 2),
        "z": pa.null(),
        "x": pa.timestamp("s"),
    }
    found = columns_of(pa.schema(list(fields.items())))
    kinds = ["string", "string", "binary", "list", "list", "struct", "boolean", "number", "null", "other"]
    assert [column.type for column in found.values()] == kinds
    assert [name for name, column in found.items() if column.has_lists] == ["l", "f"]


@pytest.mark.parametrize("noted", [b"{", b"null", b'{"info": {"features": 3}}', b'{"info": {"features": {"s": 3}}}'])
def test_notes_of_another_library_in_the_file_do_no_harm(noted):
    schema = pa.schema([("s", pa.string())], metadata={"huggingface": noted})
    assert columns_of(schema) == {"s": Column("string")}


def test_class_names_of_lists_are_told_in_every_notation():
    names = datasets.ClassLabel(names=["a", "b"])
    for feature in (datasets.List(names), datasets.Sequence(names), [names]):
        schema = datasets.Features({"labels": feature}).arrow_schema
        assert columns_of(schema)["labels"].names == ("a", "b")
    older = b'{"info": {"features": {"labels": [{"names": ["a", "b"], "_type": "ClassLabel"}]}}}'
    schema = pa.schema([("labels", pa.list_(pa.int64()))], metadata={"huggingface": older})
    assert columns_of(schema)["labels"].names == ("a", "b")


def test_columns_of_several_files_are_joined():
    parts = [{"a": Column("null")}, {"a": Column("string"), "b": Column("struct")}, {"b": Column("struct", "Image")}]
    assert merge_columns(parts) == {"a": Column("string"), "b": Column("struct", "Image")}


@pytest.mark.parametrize(
    "value, kind, expected",
    [
        ([[1, 2], [3, 4]], pa.list_(pa.list_(pa.uint8())), np.array([[1, 2], [3, 4]], np.uint8)),
        (
            [[[1.5]], [[2.5]]],
            pa.list_(pa.list_(pa.list_(pa.float32(), 1), 1)),
            np.array([[[1.5]], [[2.5]]], np.float32),
        ),
        ([True, False], pa.large_list(pa.bool_()), np.array([True, False])),
        ([[1, 2], [3]], pa.list_(pa.list_(pa.int64())), [[1, 2], [3]]),
        ([1, None], pa.list_(pa.int64()), [1, None]),
        ([[1], None], pa.list_(pa.list_(pa.int64())), [[1], None]),
        (["a", "b"], pa.list_(pa.string()), ["a", "b"]),
        ([], pa.list_(pa.float64()), np.zeros(0)),
        (None, pa.list_(pa.float64()), None),
    ],
)
def test_lists_of_numbers_are_arrays_where_they_have_a_shape(value, kind, expected):
    found = cell_of(pa.array([None, value], kind)[1], Column("list", has_lists=True))
    assert type(found) is type(expected) and getattr(found, "dtype", None) == getattr(expected, "dtype", None)
    np.testing.assert_equal(found, expected)


def test_arrays_in_structs_and_of_the_library_are_arrays():
    struct = pa.array([{"array": [0.5, 1.0], "sampling_rate": 8000}])
    found = cell_of(struct[0], Column("struct", has_lists=True))
    assert found["array"].tolist() == [0.5, 1.0] and found["sampling_rate"] == 8000
    features = datasets.Features({"image": datasets.Array3D((2, 2, 3), "uint8")})
    table = datasets.Dataset.from_dict({"image": [np.ones((2, 2, 3), np.uint8)]}, features=features).data.table
    column = columns_of(table.schema)["image"]
    assert column.type == "list" and cell_of(table["image"][0], column).shape == (2, 2, 3)
