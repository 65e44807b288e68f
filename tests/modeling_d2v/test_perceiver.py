"""Elements, Fourier features, latents and positions of the perceiver front end."""

import pytest
import torch
from model_factory import PERCEIVER, randomise, tiny_config

from modeling_d2v import Data2VecModel
from modeling_d2v.perceiver import FourierFeatures, LatentRead, coordinate_positions, fourier_frequencies
from modeling_d2v.positions import sincos_2d


def test_frequencies_are_linear_in_small_inputs_and_geometric_in_large_ones():
    torch.testing.assert_close(fourier_frequencies(16, 32, 0.5) * 32, torch.arange(1, 17).float())
    large = fourier_frequencies(5, 1600, 0.5)
    torch.testing.assert_close(large[1:] / large[:-1], torch.full((4,), 800 ** (1 / 4)))
    assert fourier_frequencies(1, 1600, 0.5).tolist() == [0.5]


def test_fourier_features_of_known_coordinates():
    features = FourierFeatures(2, 2, 4, 0.5)  # 1 / 4 and 1 / 2 cycles per element
    values = features(torch.tensor([[1.0, 2.0]]))
    expected = [0.25, 0.5, 1, 0, 0, 0, 0, -1, -1, 1]  # coordinates, sines and cosines of both
    torch.testing.assert_close(values, torch.tensor([expected]).float(), atol=1e-6, rtol=0)
    assert features.width == values.shape[1]


def read(size=16, heads=2):
    module = LatentRead(size, heads, 1e-5)
    module.init_weights()
    return randomise(module).eval()


def test_latents_read_a_set():
    module, elements = read(), torch.randn(3, 7, 16)
    latents = torch.randn(1, 4, 16)
    order = torch.randperm(7)
    torch.testing.assert_close(module(latents, elements[:, order], None), module(latents, elements, None))


def test_what_is_not_real_is_not_read():
    module, elements, latents = read(), torch.randn(3, 7, 16), torch.randn(1, 4, 16)
    real = torch.arange(7) < torch.tensor([[7], [5], [2]])
    out = module(latents, elements, real)
    torch.testing.assert_close(module(latents, torch.where(real[..., None], elements, 9.0), real), out)
    torch.testing.assert_close(module(latents, elements[2:, :2], None), out[2:])
    assert module(latents, elements, torch.zeros_like(real)).isfinite().all()


def test_positions_on_a_grid_are_those_of_patches_in_another_order_of_channels():
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    columns, rows = sincos_2d(32, (3, 5)).chunk(2, dim=1)
    torch.testing.assert_close(coordinate_positions(grid, 32), torch.cat([rows, columns], dim=1))
    volume = coordinate_positions(torch.rand(4, 3), 32)
    assert volume.shape == (4, 32) and (volume[:, 30:] == 0).all()


def test_new_weights_do_not_starve_the_input():
    torch.manual_seed(0)
    model = Data2VecModel(tiny_config("vision", vision_config=PERCEIVER))
    encoder = model.modality_encoders["vision"].local_encoder
    bound = (6 / 32) ** 0.5
    for layer in (encoder.read.query, encoder.read.value, encoder.read.projection):
        assert 0.9 * bound < layer.weight.abs().max() <= bound
    features = encoder(torch.randn(64, 3, 32, 32), None).features
    # Of the same order as the positions, whose standard deviation is 0.7.
    assert features.std(dim=0).mean() > 0.1


@pytest.mark.parametrize(
    ("modality", "inputs", "message"),
    [
        ("text", torch.zeros(2, 4), "must be integers"),
        ("text", torch.full((1, 4), 99), "`input_ids` holds 99"),
        ("vision", torch.zeros(2, 1, 8, 8), "`pixel_values` must have shape"),
        ("audio", torch.zeros(2, 1, 8), "`input_values` must be floats"),
        ("arrays", torch.zeros(2, 8), r"`array_values` must be floats of shape \(batch, length, 3\)"),
        ("arrays", torch.zeros(2, 8, 4), "channels last"),
        ("arrays", torch.zeros(2, 0, 3), "have no entries"),
        ("arrays", torch.zeros(2, 8, 3, dtype=torch.int64), "got torch.int64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(modality, inputs, message):
    model = Data2VecModel(tiny_config(modality, **{f"{modality}_config": PERCEIVER}))
    with pytest.raises(ValueError, match=message):
        model(**{model.main_input_name: inputs})


def test_frequencies_stay_exact_in_half_precision():
    features = FourierFeatures(1, 8, 1600, 0.5)
    expected = features.frequencies.clone()
    assert torch.equal(features.to(torch.bfloat16).frequencies, expected)
