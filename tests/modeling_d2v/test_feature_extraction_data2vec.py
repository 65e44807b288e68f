"""Feature extractor of arrays: shapes, statistics, padding, saving."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from modeling_d2v import Data2VecArrayFeatureExtractor


RNG = np.random.default_rng(0)
SERIES = [RNG.normal(size=(50, 12)), RNG.normal(size=(80, 12))]


def test_series_are_padded_and_masked():
    extractor = Data2VecArrayFeatureExtractor(num_channels=12)
    batch = extractor(SERIES, return_tensors="pt")
    assert batch["array_values"].shape == (2, 80, 12) and batch["array_values"].dtype == torch.float32
    assert batch["attention_mask"].sum(dim=1).tolist() == [50, 80]
    np.testing.assert_allclose(batch["array_values"][0, :50], SERIES[0], rtol=1e-5)
    assert (batch["array_values"][0, 50:] == 0).all()
    assert "attention_mask" not in extractor(SERIES[:1])
    assert extractor(SERIES[:1], return_attention_mask=True, return_tensors="pt")["attention_mask"].shape == (1, 50)
    assert [row.shape for row in extractor(SERIES, padding=False)["array_values"]] == [(50, 12), (80, 12)]


def test_channels_are_standardised_by_their_own_statistics():
    mean, std = np.arange(12.0), np.arange(1.0, 13.0)
    extractor = Data2VecArrayFeatureExtractor(num_channels=12, mean=mean, std=std)
    values = extractor(SERIES[0], return_tensors="np")["array_values"][0]
    np.testing.assert_allclose(values, (SERIES[0] - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dims", "given", "shape"),
    [
        (1, np.zeros(9), (1, 9, 1)),
        (1, [0.0, 1.0], (1, 2, 1)),
        (1, [np.zeros(9), np.zeros(7)], (2, 9, 1)),
        (1, np.zeros((4, 9, 1)), (4, 9, 1)),
        (1, torch.zeros(9, 1), (1, 9, 1)),
        (2, np.zeros((5, 6)), (1, 5, 6, 1)),
        (2, [np.zeros((5, 6, 1))] * 3, (3, 5, 6, 1)),
        (3, torch.zeros(2, 4, 5, 6, 1), (2, 4, 5, 6, 1)),
    ],
)
def test_one_array_or_several(dims, given, shape):
    extractor = Data2VecArrayFeatureExtractor(num_dims=dims)
    assert extractor(given, return_tensors="pt")["array_values"].shape == shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.zeros((12, 50))], r"Array 0 has shape \(12, 50\); this model takes \(length, 12\)"),
        ([SERIES[0], np.zeros((0, 12))], r"Array 1 has shape \(0, 12\)"),
        ([np.full((5, 12), np.nan)], "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Data2VecArrayFeatureExtractor(num_channels=12)(given)


def test_pictures_of_several_sizes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        Data2VecArrayFeatureExtractor(num_dims=2)([np.zeros((4, 4)), np.zeros((4, 5))])


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`mean` has 3 numbers; it needs 1 or 12"):
        Data2VecArrayFeatureExtractor(num_channels=12, mean=[0, 0, 0])
    with pytest.raises(ValueError, match="a deviation is positive"):
        Data2VecArrayFeatureExtractor(std=0)


def test_it_is_saved_and_loaded(tmp_path):
    extractor = Data2VecArrayFeatureExtractor(num_dims=2, num_channels=3, mean=[1, 2, 3], std=2, padding_value=7)
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is Data2VecArrayFeatureExtractor
    assert again.to_dict() == extractor.to_dict()
