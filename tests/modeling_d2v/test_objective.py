"""The objective: distances against their formula, identities of samples, masks that ignore where padding lies."""

import numpy as np
import pytest
import torch
from model_factory import inputs_for, randomise, tiny_config

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.objective import (
    MIN_QUERIES,
    choose_predicted,
    content_ids,
    distance,
    loss_divisor,
    normalised_patches,
    num_predicted,
    pretraining_output,
    resolve_mask,
)


def settings(beta=0.0, scale=None):
    return tiny_config("text", text_config={"loss_beta": beta, "loss_scale": scale}).text_config


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_the_distance_is_the_formula(beta, scale):
    predictions, targets = torch.randn(7, 16), torch.randn(7, 16)
    error = np.abs((predictions - targets).double().numpy())
    smooth = np.where(error < beta, error**2 / (2 * beta), error - beta / 2) if beta else error**2
    found = distance(settings(beta, scale), 16, predictions, targets)
    assert found.item() == pytest.approx(smooth.sum() * (scale or 16**-0.5), rel=1e-5)


def test_the_distance_is_summed_in_float32():
    predictions, targets = torch.full((4, 1024), 1.0), torch.zeros(4, 1024)
    found = distance(settings(scale=1.0), 1024, predictions.bfloat16(), targets.bfloat16())
    assert found.dtype == torch.float32 and found.item() == 4096


def test_sums_are_divided_by_the_items_of_all_devices_or_those_of_the_batch():
    mask = torch.rand(2, 3, 10) < 0.5
    assert loss_divisor(mask, None) == mask.sum()
    assert loss_divisor(mask, 77) == loss_divisor(mask, torch.tensor(77)) == 77
    assert loss_divisor(torch.zeros_like(mask), None) == 1, "a batch without a masked token has loss 0, not NaN"


@pytest.mark.parametrize("values", [torch.randint(0, 99, (3, 12)), torch.randn(3, 12)], ids=["ids", "samples"])
def test_equal_content_is_the_same_sample_whatever_lies_beside_and_behind_it(values):
    values[2] = values[0]
    ids = content_ids(values, None)
    assert ids[0] == ids[2] != ids[1]
    assert torch.equal(content_ids(values[1:], None), ids[1:])
    mask = torch.arange(12)[None] < torch.tensor([12, 7, 7])[:, None]
    other = torch.where(mask, values, values.flip(1) + 1)
    assert torch.equal(content_ids(values, mask), content_ids(other, mask))
    assert not torch.equal(content_ids(values, None), content_ids(values.flip(1), None)), "the order counts"


def test_masks_are_drawn_for_real_tokens_wherever_the_padding_is():
    text = tiny_config("text").text_config
    key = {"seed": 0, "step": 3, "sample_ids": torch.tensor([5])}
    alone = resolve_mask(None, text, torch.zeros(1, 12, 4), None, None, key)
    real = torch.tensor([[False] * 3 + [True] * 7 + [False] * 2 + [True] * 5])
    padded = resolve_mask(None, text, torch.zeros(1, 17, 4), real, None, key)
    assert torch.equal(padded[:, :, real[0]], alone)
    assert not padded[:, :, ~real[0]].any() and alone.any()


def test_a_given_mask_hides_padding_only_where_that_is_wanted():
    text = tiny_config("text").text_config
    features, real = torch.zeros(2, 6, 4), torch.arange(6)[None] < torch.tensor([[6], [4]])
    given = torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(resolve_mask(given, text, features, real, None, {}), real[:, None])
    assert resolve_mask(given, text, features, real, None, {}, mask_padding=True).all()


def test_measures_of_collapse_leave_padding_out():
    mask = torch.zeros(1, 2, 6, dtype=torch.bool)
    mask[:, :, 1:3] = True
    real = torch.arange(6)[None] < 4
    features = torch.ones(1, 6, 8)
    features[:, 4:] = torch.randn(1, 2, 8) * 100
    losses = {"regression": torch.tensor(2.0), "cls": torch.tensor(0.5)}
    out = pretraining_output(losses, torch.randn(4, 8), torch.randn(4, 8), mask, features, real)
    assert out.loss == 2.5 and out.num_items == 4 and out.masked_fraction == 0.5
    assert out.local_std < 0.01 < pretraining_output(losses, features[0], features[0], mask, features, None).local_std


@pytest.mark.parametrize(("channels", "height", "width", "side"), [(3, 8, 12, 4), (1, 6, 6, 2), (4, 5, 10, 5)])
def test_pixels_of_patches_are_normalised_row_by_row(channels, height, width, side):
    pixels = torch.randn(2, channels, height, width) * 3 + 1
    patches = normalised_patches(pixels, side)
    assert patches.shape == (2, height * width // side**2, side * side * channels)
    torch.testing.assert_close(patches.mean(dim=-1), torch.zeros(patches.shape[:2]), atol=1e-6, rtol=0)
    torch.testing.assert_close(patches.var(dim=-1), torch.ones(patches.shape[:2]), atol=1e-5, rtol=0)
    second = pixels[0, :, :side, side : 2 * side].permute(1, 2, 0).flatten()
    torch.testing.assert_close(patches[0, 1], (second - second.mean()) / (second.var() + 1e-6).sqrt())


def share_of(share):
    fields = {"decoder_type": "cross_attention", "decoder_query_share": share}
    return tiny_config("vision", vision_config=fields).vision_config


KEY = {"seed": 0, "step": 3, "sample_ids": torch.tensor([5, 6])}


def test_a_share_of_the_masked_tokens_is_predicted_and_never_fewer_than_the_least():
    mask = torch.rand(2, 3, 400) < 0.6
    mask[1, 2] = torch.arange(400) < 7
    mask[1, 1] = False
    for share in (0.05, 0.25, 0.7):
        chosen = choose_predicted(share_of(share), mask, KEY)
        assert not (chosen & ~mask).any()
        counts = [min(n, max(round(share * n), MIN_QUERIES)) for n in mask.sum(dim=2).flatten().tolist()]
        assert chosen.sum(dim=2).flatten().tolist() == counts
        assert num_predicted(share_of(share), mask) == sum(counts)
    assert choose_predicted(share_of(1.0), mask, KEY) is mask and num_predicted(share_of(1.0), mask) == mask.sum()


def test_predicted_tokens_are_drawn_uniformly_and_by_the_key_alone():
    settings, mask = share_of(0.25), (torch.rand(2, 3, 400) < 0.6)
    chosen = choose_predicted(settings, mask, KEY)
    assert torch.equal(chosen, choose_predicted(settings, mask, KEY))
    one = choose_predicted(settings, mask[1:], {**KEY, "sample_ids": torch.tensor([6])})
    assert torch.equal(one, chosen[1:])
    for other in ({"step": 4}, {"seed": 1}):
        assert not torch.equal(chosen, choose_predicted(settings, mask, KEY | other))
    # The same tokens, wherever padding lies between or behind them.
    places = torch.cat([torch.arange(7), torch.arange(20, 413)])
    wide = torch.zeros(2, 3, 450, dtype=torch.bool)
    wide[..., places] = mask
    assert torch.equal(choose_predicted(settings, wide, KEY)[..., places], chosen)
    often = torch.ones(1, 1, 80, dtype=torch.bool)
    draws = [choose_predicted(settings, often, {"seed": 0, "step": step, "sample_ids": torch.tensor([1])})
             for step in range(400)]  # fmt: skip
    frequency = torch.stack(draws).float().mean(dim=0)
    assert frequency.mean().item() == pytest.approx(0.25) and frequency.std() < 0.03


def test_partial_prediction_is_the_loss_of_its_tokens_and_costs_less():
    """Each query attends to the visible tokens alone: fewer of them change no prediction."""
    torch.manual_seed(0)
    fields = {"decoder_type": "cross_attention", "decoder_num_attention_heads": 2, "cls_loss_weight": 0.0}
    config = tiny_config("vision", vision_config=fields)
    model = randomise(Data2VecForPreTraining(config)).eval()
    inputs = inputs_for("vision", size=64)
    with torch.no_grad():
        whole = model(**inputs, step=2)
        config.vision_config.decoder_query_share = 0.4
        part = model(**inputs, step=2)
    assert torch.equal(part.mask, whole.mask) and torch.equal(whole.predicted, whole.mask)
    assert part.num_items == part.predicted.sum() == num_predicted(config.vision_config, part.mask)
    assert part.num_items < 0.45 * whole.num_items and part.masked_fraction == whole.masked_fraction
    rows = part.predicted[whole.mask]
    torch.testing.assert_close(part.predictions, whole.predictions[rows], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.targets, whole.targets[rows])
    losses = [model(pixel_values=inputs["pixel_values"][i : i + 1], mask=part.mask[i : i + 1], step=2,
                    sample_ids=content_ids(inputs["pixel_values"], None)[i : i + 1], num_items=part.num_items).loss
              for i in range(2)]  # fmt: skip
    torch.testing.assert_close(sum(losses), part.loss)


def test_partial_prediction_needs_a_decoder_that_computes_single_positions():
    with pytest.raises(ValueError, match="needs a `decoder_type` of"):
        tiny_config("vision", vision_config={"decoder_query_share": 0.5})
    with pytest.raises(ValueError, match="must be in"):
        share_of(0.0)
