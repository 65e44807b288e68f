"""The Hilbert curve: complete, without jumps, and made of cubes."""

import math

import numpy as np
import pytest
import torch

from modeling_d2v.curves import curve_order, hilbert_index


def points(sides):
    """Coordinates (N, d) along the curve."""
    return torch.cartesian_prod(*(torch.arange(side) for side in sides))[curve_order(sides)]


@pytest.mark.parametrize("sides", [(7,), (4, 4), (16, 16), (8, 8, 8), (5, 9), (1, 6), (3, 4, 5)])
def test_every_entry_is_visited_once(sides):
    assert sorted(curve_order(sides).tolist()) == list(range(math.prod(sides)))


@pytest.mark.parametrize("sides", [(4, 4), (32, 32), (8, 8, 8)])
def test_successive_entries_are_neighbours(sides):
    steps = points(sides).diff(dim=0).abs().sum(dim=1)
    assert steps.unique().tolist() == [1]


@pytest.mark.parametrize(("sides", "size"), [((32, 32), 16), ((16, 16), 64), ((8, 8, 8), 8), ((24, 40), 16)])
def test_stretches_of_a_power_of_two_are_cubes(sides, size):
    groups = points(sides).unflatten(0, (-1, size))
    extents = (groups.amax(dim=1) - groups.amin(dim=1) + 1).unique().tolist()
    assert extents == [round(size ** (1 / len(sides)))]


def test_the_order_of_a_series_is_that_of_time():
    assert curve_order((9,)).tolist() == list(range(9))
    assert curve_order((1, 9)).tolist() == list(range(9))


def test_the_smallest_curve():
    square = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    assert sorted(hilbert_index(square, 1).tolist()) == [0, 1, 2, 3]
    places = hilbert_index(square, 1)
    assert {abs(int(places[i]) - int(places[(i + 1) % 4])) for i in range(4)} == {1, 3}


def test_what_is_kept_does_not_depend_on_the_mode_of_the_first_call():
    with torch.inference_mode():
        curve_order((6, 7, 3))
    order = curve_order((6, 7, 3))
    assert not order.is_inference()

    class Reordered(torch.nn.Module):
        def forward(self, x):
            return x.flatten()[curve_order((5, 7, 3))]

    x = torch.randn(5, 7, 3)
    for _ in range(2):
        program = torch.export.export(Reordered(), (x,), strict=False)
    assert type(curve_order((5, 7, 3))) is torch.Tensor
    torch.testing.assert_close(program.module()(x), Reordered()(x))
