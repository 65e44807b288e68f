import pytest
import torch
from torch.nn import functional as F

from modeling_d2v import dropout as module
from modeling_d2v.dropout import Dropout, draw_kept, dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_shares_neighbours_and_repeats_are_those_of_independent_draws(p):
    kept = draw_kept(torch.Size([1000, 257]), round(p * 65536)).double()
    spread = (p * (1 - p)) ** 0.5
    assert kept.mean().item() == pytest.approx(1 - p, abs=5 * spread / 257_000**0.5)
    # By column too: the four parts of a draw of 64 bits have the same distribution.
    for part in range(4):
        assert kept.flatten()[part::4].mean().item() == pytest.approx(1 - p, abs=10 * spread / 257_000**0.5)
    centred = kept.flatten() - kept.mean()
    for lag in (1, 2, 3, 4, 257):
        correlation = (centred[lag:] * centred[:-lag]).mean() / centred.square().mean()
        assert abs(correlation.item()) < 5 / 257_000**0.5


def test_values_are_kept_scaled_and_differentiated_alike():
    layer, x = Dropout(0.25), torch.randn(64, 33, requires_grad=True)
    out = layer(x)
    zero = out == 0
    torch.testing.assert_close(out[~zero], x[~zero] / 0.75)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    torch.testing.assert_close(gradient, (~zero).float() / 0.75)


def test_the_global_generator_repeats_it():
    x = torch.randn(10, 7)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5, True), first)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.3, False), (1e-9, True)])
def test_extremes_are_those_of_pytorch(p, training):
    x = torch.randn(3, 5)
    torch.testing.assert_close(dropout(x, p, training), F.dropout(x, p, training))


def test_half_precision_and_an_empty_tensor():
    assert dropout(torch.ones(8, 8, dtype=torch.bfloat16), 0.5, True).unique().tolist() == [0.0, 2.0]
    assert dropout(torch.ones(0, 3), 0.5, True).shape == (0, 3)


def test_compiled_programs_use_the_dropout_of_pytorch(monkeypatch):
    monkeypatch.setattr(module.DropoutByBits, "apply", lambda *args: pytest.fail("by bits"))
    torch.compile(Dropout(0.5), backend="eager")(torch.ones(3))
    torch.export.export(Dropout(0.5), (torch.ones(3),))
