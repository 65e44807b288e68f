import numpy as np
import pytest

from d2v_train.alignment.features import as_layers, paired_layers, unit_rows


def test_a_matrix_is_one_layer_and_layers_are_centred():
    x = np.random.default_rng(0).normal(size=(6, 3)) + 5
    (layer,) = as_layers(x)
    np.testing.assert_allclose(layer, x - x.mean(axis=0))
    assert [matrix.shape for matrix in as_layers([x, x[:, :2].astype(np.float32)])] == [(6, 3), (6, 2)]
    assert all(matrix.dtype == np.float64 for matrix in as_layers([x.astype(np.float32)]))


@pytest.mark.parametrize(
    "layers, message",
    [
        ([], "no layer"),
        ([np.zeros((5, 2)), np.zeros((6, 2))], "Layer 1 of speech has 6 concepts"),
        ([np.zeros(5)], r"shape \(5,\)"),
        ([np.zeros((3, 2))], "at least 4"),
        ([np.full((5, 2), np.nan)], "NaN"),
    ],
)
def test_what_is_not_a_concept_matrix_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        as_layers(layers, "speech")


def test_modalities_have_the_same_concepts():
    with pytest.raises(ValueError, match="5 concepts, the second 6"):
        paired_layers(np.zeros((5, 2)), np.zeros((6, 2)))


def test_rows_of_zeros_stay():
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]])
