import pytest
import torch
from torch.nn import functional as F

from modeling_d2v import time_convolutions
from modeling_d2v.time_convolutions import ConvolutionByTaps, SameConv1d, TimeConv1d, differentiates_by_taps


# Of speech, of the text decoder, kernels that the stride does not divide, strides beyond the kernel.
SHAPES = [(10, 5, 0), (3, 2, 0), (2, 2, 0), (9, 1, 4), (4, 1, 2), (7, 3, 0), (3, 4, 1), (1, 1, 0), (5, 2, 3)]


@pytest.fixture(params=["AVX2", "AVX512"])
def processor(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
def test_values_and_gradients_are_those_of_conv1d(processor, kernel, stride, padding, bias):
    conv = TimeConv1d(6, 4, kernel, stride=stride, padding=padding, bias=bias)
    x = torch.randn(3, 41, 6, requires_grad=True)
    twin = x.detach().clone().requires_grad_(True)
    out = conv(x)
    expected = F.conv1d(twin.transpose(1, 2), conv.weight, conv.bias, stride, padding).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(expected.shape)
    wanted = [x, *conv.parameters()]
    gradients = torch.autograd.grad(out, wanted, upstream)
    references = torch.autograd.grad(expected, [twin, *conv.parameters()], upstream)
    torch.testing.assert_close(gradients, references, rtol=1e-4, atol=1e-4)


def test_the_way_of_the_gradient_follows_the_processor(processor):
    assert differentiates_by_taps(stride=2)
    assert differentiates_by_taps(stride=1) == (processor == "AVX2")
    assert TimeConv1d(4, 4, 3, stride=2).by_taps
    assert not TimeConv1d(1, 4, 10, stride=5).by_taps  # nothing to multiply
    assert not SameConv1d(4, 4, 3, groups=2).by_taps


def test_gradients_by_taps_hold_in_double_precision():
    x = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: ConvolutionByTaps.apply(*args, 2, 1), (x, weight, bias))


def test_input_in_another_layout_and_frozen_parts():
    conv = TimeConv1d(6, 4, 3, stride=2)
    x = torch.randn(2, 6, 20).transpose(1, 2).requires_grad_(True)  # (B, T, C), not contiguous
    expected = torch.autograd.grad(conv(x.contiguous()).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(conv(x).sum(), x), expected)
    conv.requires_grad_(False)
    torch.testing.assert_close(torch.autograd.grad(conv(x).sum(), x), expected)
    conv.weight.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None and conv.bias.grad is None


@pytest.mark.parametrize("mode", ["no_grad", "autocast", "compile", "export", "double"])
def test_only_training_in_fp32_goes_by_taps(monkeypatch, mode):
    def refuse(*args):
        raise AssertionError("by taps")

    conv, x = TimeConv1d(6, 4, 3, stride=2), torch.randn(2, 20, 6)
    expected = conv(x).detach()
    monkeypatch.setattr(time_convolutions.ConvolutionByTaps, "apply", refuse)
    with pytest.raises(AssertionError, match="by taps"):
        conv(x)
    if mode == "no_grad":
        with torch.no_grad():
            torch.testing.assert_close(conv(x), expected)
    elif mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(x).dtype == torch.bfloat16
    elif mode == "compile":
        torch.testing.assert_close(torch.compile(conv, backend="eager")(x), expected)
    elif mode == "export":
        torch.testing.assert_close(torch.export.export(conv, (x,)).module()(x), expected)
    else:
        assert conv.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("kernel", [3, 4, 5, 6])
def test_same_convolutions_keep_the_length(kernel):
    assert SameConv1d(4, 4, kernel, groups=2)(torch.randn(2, 9, 4)).shape == (2, 9, 4)
