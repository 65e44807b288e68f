"""Classification of arrays as a task; the program as a whole is tested beside it."""

import numpy as np
import pytest

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SourceSettings, Table
from d2v_train.finetuning.arrays.task import leave_out_smaller


def test_arrays_that_are_smaller_than_the_crop_on_any_side_are_bad():
    shapes = [(8, 8), (4, 8), (8, 4), (5, 5)]
    arrays = [np.zeros((*shape, 1)) for shape in shapes] + [np.full((2, 2, 1), np.nan)]
    dataset = RawDataset("arrays", Table(arrays), settings=SourceSettings(num_dims=2, on_bad="raise"))
    leave_out_smaller(dataset, [5, 5])
    assert dataset.bad.names("wrong shape") == ["row 1", "row 2", "row 4"]
    assert dataset[3]["array"].shape == (5, 5, 1)
    with pytest.raises(BadSample, match=r"\(4, 8\) is smaller than the crop \[5, 5\]"):
        dataset[1]
