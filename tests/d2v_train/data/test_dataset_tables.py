import datasets

from d2v_train.data.dataset_tables import table_of
from d2v_train.data.tables import SourceSettings


def test_a_table_of_columns_becomes_values_labels_and_groups():
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"], "speaker": [1, 2]})
    splits = datasets.DatasetDict({"train": train})
    table = table_of("text", splits, "train", SourceSettings(), "the data")
    assert [table.values[row] for row in range(2)] == ["a", "b"]
    assert (table.labels.tolist(), table.label_names, table.groups) == ([0, 1], ["x", "y"], ["1", "2"])
