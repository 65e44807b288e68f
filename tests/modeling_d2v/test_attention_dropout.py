import pytest
import torch

from modeling_d2v import Data2VecConfig, Data2VecModel, attention_dropout
from modeling_d2v.attention_dropout import AttentionWithDropout, attention_with_dropout, drops_out_here


B, H, T, D = 2, 3, 7, 4


def operands(mask=None, dtype=torch.float32):
    return *(torch.randn(B, H, T, D, dtype=dtype, requires_grad=True) for _ in range(3)), mask


def masks(dtype=torch.float32):
    real = torch.ones(B, 1, 1, T, dtype=torch.bool)
    real[1, ..., 4:] = False
    return {
        "none": None,
        "boolean": real,
        "additive": torch.randn(B, H, T, T, dtype=dtype),
        "learned": torch.randn(1, H, T, T, dtype=dtype, requires_grad=True),
    }


def plain(query, key, value, mask, kept, p, scaling):
    scores = query @ key.transpose(-2, -1) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return ((scores.softmax(-1) * kept / (1 - p)) @ value).transpose(1, 2)


@pytest.mark.parametrize("name", list(masks()))
def test_output_and_gradients_are_those_of_the_formula(monkeypatch, name):
    kept = torch.rand(B, H, T, T) >= 0.25
    monkeypatch.setattr(attention_dropout, "draw_kept", lambda shape, threshold: kept)
    mask = masks()[name]
    query, key, value, _ = operands()
    out = attention_with_dropout(query, key, value, mask, 0.25, 0.5)
    expected = plain(query, key, value, mask, kept, 0.25, 0.5)
    torch.testing.assert_close(out, expected)
    wanted = [query, key, value, *([mask] if name == "learned" else [])]
    upstream = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    )


def test_gradients_hold_in_double_precision(monkeypatch):
    kept = torch.rand(B, H, T, T) >= 0.25
    monkeypatch.setattr(attention_dropout, "draw_kept", lambda shape, threshold: kept)
    inputs = (*operands(dtype=torch.float64)[:3], masks(torch.float64)["learned"], 0.5, 1 << 14)
    assert torch.autograd.gradcheck(AttentionWithDropout.apply, inputs)


def test_a_sample_of_padding_alone_stays_finite():
    real = torch.ones(B, 1, 1, T, dtype=torch.bool)
    real[1] = False
    query, key, value, _ = operands()
    out = attention_with_dropout(query, key, value, real, 0.5, 0.5)
    out.sum().backward()
    assert out.isfinite().all() and query.grad.isfinite().all() and value.grad.isfinite().all()


def test_it_is_for_training_in_fp32_on_a_cpu():
    query = torch.randn(1, 1, 2, 2)
    assert drops_out_here(query, 0.1)
    assert not drops_out_here(query, 0.0)
    assert not drops_out_here(query.bfloat16(), 0.1)
    with torch.no_grad():
        assert not drops_out_here(query, 0.1)


def test_a_model_in_training_uses_it_in_every_block(monkeypatch):
    config = Data2VecConfig(
        modalities=["text"], hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        attention_dropout=0.5, text_config={"vocab_size": 30, "mask_token_id": 29},
    )  # fmt: skip
    model, calls = Data2VecModel(config), []
    forward = attention_dropout.AttentionWithDropout.apply
    monkeypatch.setattr(AttentionWithDropout, "apply", lambda *args: calls.append(1) or forward(*args))
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 1, 1]])
    model(input_ids=ids).last_hidden_state.sum().backward()
    assert len(calls) == 3
    model.eval()(input_ids=ids)
    assert len(calls) == 3
