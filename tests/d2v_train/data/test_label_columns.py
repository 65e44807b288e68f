import numpy as np
import pytest

from d2v_train.data.label_columns import encode_labels


@pytest.mark.parametrize(
    "raw, expected, names",
    [
        ([1, 0, None], [1, 0, -1], None),
        (["dog", None, "cat"], [1, -1, 0], ["cat", "dog"]),
        ([0.5, None], [0.5, np.nan], None),
    ],
)
def test_labels_become_class_ids_or_scores(raw, expected, names):
    labels, found = encode_labels(raw, None, raw, "the table")
    np.testing.assert_array_equal(labels, expected)
    assert found == names
