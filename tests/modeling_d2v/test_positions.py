"""Positions and lengths against tables recorded from the reference implementation."""

import math

import pytest
import torch

from modeling_d2v.positions import AlibiBias, ConvPositions, SinusoidPositions, alibi_slopes, sincos_2d, text_positions
from tests.modeling_d2v.reference_fixtures import load_numbers, relative_error


@pytest.mark.parametrize("heads", [6, 8, 12, 16])
def test_alibi_slopes(heads):
    assert alibi_slopes(heads) == pytest.approx(load_numbers()["alibi_slopes"][str(heads)], rel=1e-6)


def test_alibi_of_a_sequence():
    recorded = load_numbers()["alibi_1d"]
    alibi = AlibiBias(recorded["heads"], 1)
    bias = alibi.scaled(alibi(torch.arange(recorded["T"])[None], None, 0), 0)[0]
    assert relative_error(bias, torch.tensor(recorded["bias"])) < 1e-6


@pytest.mark.parametrize("distance", ["manhattan", "euclidean"])
def test_alibi_of_a_grid(distance):
    recorded = load_numbers()["alibi_2d"][distance]
    height, width = recorded["grid"]
    alibi = AlibiBias(recorded["heads"], 1, distance=distance)
    bias = alibi.scaled(alibi(torch.arange(height * width)[None], (height, width), 0), 0)[0]
    assert relative_error(bias, torch.tensor(recorded["bias"])) < 1e-6


def test_alibi_of_kept_tokens_and_extra_tokens():
    """Kept tokens keep their distances, whatever lies between them; extra tokens are at no distance."""
    full = AlibiBias(4, 1)(torch.arange(9)[None], None, 0)
    kept = torch.tensor([[0, 3, 4, 8]])
    part = AlibiBias(4, 1)(kept, None, 2)
    assert torch.equal(part[0, :, 2:, 2:], full[0][:, kept[0]][:, :, kept[0]])
    assert not part[:, :, :2].any() and not part[:, :, :, :2].any()


def test_sine_and_cosine_table():
    recorded = load_numbers()["sincos_2d"]
    table = sincos_2d(recorded["dim"], (recorded["grid"], recorded["grid"]))
    assert relative_error(table, torch.tensor(recorded["values"])) < 1e-6


def test_positions_of_text():
    recorded = load_numbers()["text_positions"]
    positions = text_positions(torch.tensor(recorded["tokens"]), recorded["pad"])
    assert positions.tolist() == recorded["positions"]


def test_alibi_along_the_sequence_of_patches():
    index = torch.tensor([[0, 3, 5, 8]])
    on_grid = AlibiBias(4, 2, distance="sequence")(index, (3, 3), 1)
    assert torch.equal(on_grid, AlibiBias(4, 2)(index, None, 1))


@pytest.mark.parametrize(("learned", "per_head"), [(False, False), (True, False), (True, True)])
def test_alibi_of_the_first_heads_alone(learned, per_head):
    bias = AlibiBias(5, 2, scale=0.5, learned=learned, per_head=per_head, biased_heads=3)
    distance = bias(torch.arange(4)[None], None, 0)
    whole = AlibiBias(3, 2, scale=0.5)
    scaled = bias.scaled(distance, 0)
    assert scaled.shape == (1, 5, 4, 4) and not scaled[:, 3:].any()
    torch.testing.assert_close(scaled[:, :3], whole.scaled(distance, 0))
    assert bias.scale is None or bias.scale.numel() == (3 if per_head else 1)


def test_position_encoder_normalises_its_input():
    encoder = ConvPositions(8, 2, 8, 2, pre_norm=True)
    x, real = torch.randn(2, 12, 8), torch.arange(12)[None] < torch.tensor([[12], [7]])
    torch.testing.assert_close(encoder(3 * x + 2, None), encoder(x, None), atol=1e-4, rtol=1e-3)
    assert "norm.weight" in encoder.state_dict() and "norm.weight" not in ConvPositions(8, 2, 8, 2).state_dict()
    alone = encoder(x[1:, :7], None)
    torch.testing.assert_close(encoder(x, real)[1:, :7], alone, atol=1e-5, rtol=1e-5)


def test_sinusoid_positions():
    """Sines of all frequencies, then cosines, and a row of zeros for padding."""
    module = SinusoidPositions(30, 7, padding_idx=1)
    assert not list(module.state_dict()) and module.table.shape == (30, 7) and not module.table[1].any()
    for row in (0, 2, 29):
        angles = [row * 10000 ** (-i / 2) for i in range(3)]
        expected = [*map(math.sin, angles), *map(math.cos, angles), 0.0]
        assert module.table[row].tolist() == pytest.approx(expected, abs=1e-6)
    places = torch.tensor([[2, 3, 1]])
    assert torch.equal(module(places), module.table[[2, 3, 1]][None])
