"""What is hidden of speech in training: how many spans, where, and that nothing else changes."""

import pytest
import torch
from audio_factory import FRAMES, HEADS, SIZES, make, targets
from model_factory import inputs_for, randomise, version_config
from torch.nn import functional as F

from modeling_d2v import Data2VecForCTC
from modeling_d2v.spec_augment import SpecAugment, draw_spans


def test_spans_are_whole_uniform_and_of_the_wanted_number():
    torch.manual_seed(0)
    real = torch.ones(4000, 50, dtype=torch.bool)
    hidden = draw_spans(real, 0.3, 5)  # 3 spans each
    edges = F.pad(hidden.int(), (1, 1)).diff(dim=1)
    starts, ends = (edges == 1).nonzero()[:, 1], (edges == -1).nonzero()[:, 1]
    assert (ends - starts).min() == 5 and hidden.sum(1).max() == 15
    assert (hidden.sum(1) == 15).float().mean() > 0.4  # most do not overlap
    assert hidden.any(0).all()
    middle = hidden[:, 4:-4].float().mean(0)  # every place that spans reach from both sides
    expected = 1 - (41 * 40 * 39) / (46 * 45 * 44)  # none of 3 distinct starts out of 46 is among the 5 that reach it
    assert (middle - expected).abs().max() < 0.025


def test_the_number_of_spans_is_rounded_at_random():
    real = torch.ones(20_000, 40, dtype=torch.bool)
    counts = draw_spans(real, 0.33, 1).sum(1).float()  # 13.2 single places
    assert set(counts.tolist()) == {13.0, 14.0}
    assert abs(counts.mean().item() - 13.2) < 0.02
    assert draw_spans(real, 0.0, 1, min_spans=2).sum(1).unique().tolist() == [2]
    assert draw_spans(real[:, :12], 0.01, 10, min_spans=3).sum(1).unique().tolist() == [10]  # no more than one fits


@pytest.mark.parametrize("side", ["right", "left"])
def test_spans_keep_to_real_places_and_leave_one(side):
    lengths = torch.arange(31).repeat(100)
    real = torch.arange(30) < lengths[:, None]
    real = real.flip(1) if side == "left" else real
    hidden = draw_spans(real, 0.9, 7, min_spans=2)
    assert not (hidden & ~real).any()
    assert (hidden.sum(1) < lengths.clamp(min=1)).all()
    assert (hidden.any(1) == (lengths > 7)).all()
    shares = [hidden[lengths == n].sum(1).float().mean() / n for n in (15, 22, 30)]
    assert min(shares) > 0.4


def test_the_published_share_of_frames_is_hidden():
    """0.65 with spans of 10 hides 49 % of the frames, what the paper says of the same settings in pretraining."""
    hidden = draw_spans(torch.ones(500, 400, dtype=torch.bool), 0.65, 10)
    assert abs(hidden.float().mean().item() - 0.49) < 0.015


def test_spans_come_from_the_generator_of_torch():
    real = torch.ones(4, 60, dtype=torch.bool)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(draw_spans(real, 0.5, 5))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0][0], draws[0][1])


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_hidden_frames_become_the_mask_token_and_hidden_channels_zeros(version):
    audio = SIZES | (dict(num_masks=1, alibi=None, prenet_depth=0) if version == "1.0" else {})
    model = randomise(Data2VecForCTC(version_config(version, "audio", audio_config=audio))).train()
    encoder = model.data2vec.modality_encoders["audio"]
    local = encoder.local_encoder(**inputs_for("audio"), attention_mask=None)
    torch.manual_seed(5)
    got = encoder.contextualize(local).hidden_states
    torch.manual_seed(5)
    frames, channels = encoder.augment(local.features, None)
    assert frames.any(1).all() and not frames.all(1).any() and channels.any(1).all() and not channels.all(1).any()
    filling = 0.0 if version == "2.0" else encoder.mask_token
    x = torch.where(frames[..., None], filling, local.features)
    x = x * ~channels[:, None]
    torch.testing.assert_close(got, encoder.context_norm(x + encoder.position_encoder(x, None)))


@pytest.mark.parametrize("head", HEADS)
def test_only_training_hides_anything(head):
    batch = inputs_for("audio", batch=3)
    model = make(head)
    assert not torch.equal(model.train()(**batch).logits, model.eval()(**batch).logits)
    torch.manual_seed(1)
    first = model.train()(**batch).logits
    torch.manual_seed(1)
    assert torch.equal(first, model(**batch).logits)
    for audio in ({"apply_spec_augment": False}, {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}):
        model = make(head, audio)
        assert torch.equal(model.train()(**batch).logits, model.eval()(**batch).logits)


def test_frames_can_be_hidden_by_hand():
    batch = inputs_for("audio")
    mask = torch.rand(2, FRAMES) < 0.4
    model = make("AudioFrameClassification", {"mask_feature_prob": 0.0})
    hidden = model(**batch, mask_time_indices=mask).logits
    assert not torch.allclose(hidden, model(**batch).logits)
    assert torch.equal(hidden, model.train()(**batch, mask_time_indices=mask).logits)  # none are drawn besides
    expected = model.classifier(model.data2vec(**batch, mask=mask).last_hidden_state)
    assert torch.equal(hidden, expected)
    with pytest.raises(ValueError, match=r"`mask`.*\(2.*18\)"):
        model(**batch, mask_time_indices=mask[:, :-1])


@pytest.mark.parametrize("prob", [0.0, 0.5])
def test_every_parameter_has_a_gradient_in_every_step(prob):
    """Distributed engines wait for all of them, the mask token of 1.0 too."""
    audio = SIZES | {"num_masks": 1, "alibi": None, "prenet_depth": 0, "mask_time_prob": prob}
    model = Data2VecForCTC(version_config("1.0", "audio", audio_config=audio)).train()
    model(**inputs_for("audio"), labels=targets("CTC", 2)).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    token = model.data2vec.modality_encoders["audio"].mask_token.grad
    assert bool(token.any()) == (prob > 0)


def test_augmentation_holds_no_weights_and_says_what_it_does():
    model = make("CTC")
    assert not [name for name in model.state_dict() if "augment" in name]
    assert "SpecAugment(time=(0.65, 3, 1), channels=(0.5, 4, 0))" in repr(model)
    assert SpecAugment(make("CTC", {"mask_time_prob": 0.0}).config.audio_config)(torch.ones(1, 9, 8), None)[0] is None
