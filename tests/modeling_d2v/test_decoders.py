"""Decoders: noise in masked places, convolutions that keep the size."""

import pytest
import torch

from modeling_d2v.decoders import SameConv2d, pooled_noise
from modeling_d2v.positions import SameConv1d


def test_decoder_noise_is_normal_and_a_function_of_step_sample_and_mask():
    like, shape = torch.zeros(1, 64), (4, 3, 200)
    key = {"seed": 1, "step": 2, "sample_ids": torch.tensor([5, 6, 7, 8])}
    noise = pooled_noise(like, shape, key)
    assert noise.shape == (12, 200, 64)
    assert noise.mean().abs() < 0.01 and noise.std() == pytest.approx(1.0, abs=0.01)
    assert noise.pow(4).mean() == pytest.approx(3.0, abs=0.1)  # kurtosis of the normal distribution
    some = pooled_noise(like, (2, 3, 150), {**key, "sample_ids": torch.tensor([8, 6])})
    torch.testing.assert_close(some.view(2, 3, 150, 64), noise.view(4, 3, 200, 64)[[3, 1], :, :150])
    flat = noise.flatten(0, 1)[:600]
    assert (flat @ flat.T / 64 - torch.eye(600)).abs().mean() < 0.12  # 0.1 for independent rows of 64
    for other in ({**key, "step": 3}, {**key, "seed": 2}):
        assert not torch.allclose(pooled_noise(like, shape, other), noise)


@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_same_convolutions_keep_the_size(kernel):
    assert SameConv1d(4, 4, kernel, groups=2)(torch.randn(2, 9, 4)).shape == (2, 9, 4)
    assert SameConv2d(4, 4, kernel, groups=2)(torch.randn(2, 5, 9, 4)).shape == (2, 5, 9, 4)
