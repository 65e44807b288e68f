"""Columns: what they hold, and their cells."""

import datasets

from d2v_train.data.columns import DatasetRows


def test_rows_of_a_table_are_values_or_tuples_of_the_columns():
    table = datasets.Dataset.from_dict({"a": [1, 2], "b": ["x", "y"], "c": [0, 0]})
    assert list(DatasetRows(table, ["a"])) == [1, 2] and DatasetRows(table, ["a", "b"])[1] == (2, "y")
    assert DatasetRows(table, ["a"]).identity != DatasetRows(table, ["b"]).identity
