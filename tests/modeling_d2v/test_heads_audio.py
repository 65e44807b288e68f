"""Speech heads: losses, what is hidden in training, padding, short recordings, vocabulary, mistakes."""

import itertools

import pytest
import torch
from model_factory import inputs_for, padded_inputs, randomise, tiny_config, version_config
from torch.nn import functional as F
from transformers import AutoModelForAudioFrameClassification, AutoModelForAudioXVector, AutoModelForCTC

import modeling_d2v
from modeling_d2v import Data2VecForCTC, Data2VecForPreTraining, Data2VecForXVector
from modeling_d2v.ctc import ctc_loss, ctc_min_frames
from modeling_d2v.spec_augment import SpecAugment, draw_spans


HEADS = ("CTC", "AudioClassification", "AudioFrameClassification", "XVector")
SIZES = dict(
    vocab_size=12,
    classifier_proj_size=24,
    tdnn_dim=[16, 16, 20],
    tdnn_kernel=[3, 2, 1],
    tdnn_dilation=[1, 2, 1],
    xvector_output_dim=14,
    mask_time_length=3,
    mask_feature_length=4,
)
LABELS = 3
FRAMES = 18  # of 6000 samples


def make(head: str, audio: dict | None = None, **overrides) -> torch.nn.Module:
    config = tiny_config("audio", audio_config=SIZES | (audio or {}), **{"num_labels": LABELS, **overrides})
    return randomise(getattr(modeling_d2v, f"Data2VecFor{head}")(config)).eval()


def targets(head: str, batch: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if head == "CTC":
        labels = torch.randint(1, 12, (batch, 3), generator=generator)
        labels[:, 1:] = labels[:, 1:].where(labels[:, 1:] != labels[:, :-1], torch.tensor(-100))
        return labels
    if head == "AudioFrameClassification":
        return torch.randint(0, LABELS, (batch, FRAMES), generator=generator)
    return torch.arange(batch) % LABELS


# CTC


def collapse(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


@pytest.mark.parametrize("blank", [0, 2])
def test_the_loss_is_minus_the_probability_of_all_paths(blank):
    """Three tokens and four frames: every path can be enumerated."""
    logits = torch.randn(1, 4, 3)
    probabilities = logits[0].softmax(-1)
    first, second = (token for token in range(3) if token != blank)
    for transcript in ((), (first,), (first, second), (first, first), (second, first, second)):
        total = sum(
            torch.stack([probabilities[t, token] for t, token in enumerate(path)]).prod()
            for path in itertools.product(range(3), repeat=4)
            if collapse(path, blank) == transcript
        )
        labels = torch.tensor([[*transcript, *[-100] * (5 - len(transcript))]])
        loss = ctc_loss(logits, labels, None, blank=blank, reduction="sum")
        torch.testing.assert_close(loss, -total.log(), atol=1e-5, rtol=1e-5)


def test_frames_that_a_transcript_needs():
    """The length of the shortest path, by enumeration."""
    transcripts = [labels for size in range(4) for labels in itertools.product((1, 2), repeat=size)]
    shortest = {}
    for frames in range(6):
        for path in itertools.product(range(3), repeat=frames):
            shortest.setdefault(collapse(path, 0), frames)
    padded = torch.full((len(transcripts), 6), -100)
    for row, labels in zip(padded, transcripts, strict=True):
        row[1 : 1 + len(labels)] = torch.tensor(labels, dtype=torch.long)
        row[-1] = 0  # a blank is padding
    expected = [shortest[labels] for labels in transcripts]
    assert ctc_min_frames(padded, blank=0).tolist() == expected
    assert [ctc_min_frames(row, 0).item() for row in padded] == expected
    assert ctc_min_frames(torch.zeros(2, 0, dtype=torch.long), 0).tolist() == [0, 0]


def test_transcripts_that_cannot_be_aligned():
    logits = torch.randn(3, 4, 5, requires_grad=True)
    labels = torch.tensor([[1, 2, 3, 4, -100], [1, 1, 2, 2, -100], [1, 2, 3, 4, 1]])
    too_long = ctc_min_frames(labels, 0) > 4
    assert too_long.tolist() == [False, True, True]
    for row in range(3):
        loss = ctc_loss(logits[row : row + 1], labels[row : row + 1], None, blank=0, zero_infinity=False)
        assert torch.isinf(loss) == too_long[row]
    loss = ctc_loss(logits, labels, None, blank=0)
    torch.testing.assert_close(loss, ctc_loss(logits[:1], labels[:1], None, blank=0) / 3)
    loss.backward()
    assert logits.grad[0].any() and not logits.grad[1:].any() and torch.isfinite(logits.grad).all()


def test_a_model_meets_a_transcript_that_is_too_long():
    batch = inputs_for("audio", size=900)  # two frames
    labels = torch.tensor([[3, 4, 5], [3, -100, -100]])
    for audio, finite in (({}, True), ({"ctc_zero_infinity": False}, False)):
        model = make("CTC", audio)
        loss = model(**batch, labels=labels).loss
        assert torch.isfinite(loss) == finite
        frames = model.config.audio_config.num_frames(torch.tensor([900, 900]))
        assert (frames < ctc_min_frames(labels, model.config.audio_config.pad_token_id)).tolist() == [True, False]
    assert torch.isfinite(make("CTC")(**batch, labels=labels[:, :0]).loss)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_batch_has_the_losses_of_its_samples(reduction):
    model = make("CTC", {"ctc_loss_reduction": reduction})
    batch, singles = padded_inputs("audio")
    labels = torch.tensor([[3, 3, 4], [-100, 5, -100], [0, -100, -100]])  # the last one is empty
    alone = []
    for single, row in zip(singles, labels, strict=True):
        logits = model(**single).logits
        transcript = [token for token in row.tolist() if token > 0]
        loss = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), torch.tensor([transcript], dtype=torch.long).view(1, -1),
            torch.tensor([logits.shape[1]]), torch.tensor([len(transcript)]), reduction="sum",
        )  # fmt: skip
        alone.append(loss / max(len(transcript), 1) if reduction == "mean" else loss)
    expected = torch.stack(alone).mean() if reduction == "mean" else torch.stack(alone).sum()
    torch.testing.assert_close(model(**batch, labels=labels).loss, expected, atol=1e-5, rtol=1e-5)
    left = left_padded(batch)
    torch.testing.assert_close(model(**left, labels=labels).loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_batches_give_the_loss_of_the_whole(reduction):
    model = make("CTC", {"ctc_loss_reduction": reduction})
    batch, labels = inputs_for("audio", batch=3), targets("CTC")
    count = labels.ne(-100).sum()
    whole = model(**batch, labels=labels, num_items_in_batch=count).loss
    parts = [
        model(input_values=batch["input_values"][rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 1), slice(1, 3))
    ]
    torch.testing.assert_close(sum(parts), whole)
    model.loss_settings["reduction"] = "sum"
    total = model(**batch, labels=labels).loss
    torch.testing.assert_close(whole, total / count if reduction == "mean" else total)


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_in_float32_and_half_precision_works(head):
    model = make(head)
    batch, labels = padded_inputs("audio")[0], targets(head)
    expected = model(**batch, labels=labels).loss
    model.bfloat16()
    output = model(**batch, labels=labels)
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, expected, atol=0.05, rtol=0.05)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# Vocabulary


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folders of an audio and of a joint pretraining checkpoint."""
    folders = {}
    for name, modalities in (("audio", "audio"), ("joint", ("text", "vision", "audio"))):
        folders[name] = tmp_path_factory.mktemp(name)
        Data2VecForPreTraining(tiny_config(modalities)).save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("checkpoint", ["audio", "joint"])
@pytest.mark.parametrize("load", [AutoModelForCTC, Data2VecForCTC], ids=["auto", "class"])
def test_the_vocabulary_is_set_on_loading(pretrained, checkpoint, load, tmp_path):
    ways = (
        dict(vocab_size=40, pad_token_id=39),
        dict(audio_config={"vocab_size": 40, "pad_token_id": 39}),
        dict(vocab_size=40, pad_token_id=39, num_labels=7, final_dropout=0.25),
    )
    for given in ways:
        model, info = load.from_pretrained(pretrained[checkpoint], output_loading_info=True, **given)
        audio = model.config.audio_config
        assert type(model) is Data2VecForCTC and model.lm_head.out_features == 40
        assert (audio.vocab_size, audio.pad_token_id, audio.conv_dim) == (40, 39, [8] * 7)
        assert set(info["missing_keys"]) == {"lm_head.weight", "lm_head.bias"}
        assert torch.isfinite(model(**inputs_for("audio"), labels=targets("CTC", 2)).loss)
    assert model.dropout.p == 0.25 and model.config.num_labels == 7
    model.save_pretrained(tmp_path)
    again = AutoModelForCTC.from_pretrained(tmp_path)
    assert again.config.audio_config.pad_token_id == 39 and torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_configuration_given_with_a_vocabulary_is_not_changed(pretrained):
    config = tiny_config("audio")
    model = Data2VecForCTC.from_pretrained(pretrained["audio"], config=config, vocab_size=40)
    assert model.lm_head.out_features == 40 and config.audio_config.vocab_size == 32


def test_a_vocabulary_that_cannot_work_is_an_error(pretrained):
    with pytest.raises(ValueError, match="`pad_token_id` .* is 40, outside a vocabulary of 40"):
        AutoModelForCTC.from_pretrained(pretrained["audio"], vocab_size=40, pad_token_id=40)
    with pytest.raises(ValueError, match="Data2VecForCTC works on audio"):
        Data2VecForCTC(tiny_config("text"))


@pytest.mark.parametrize("wrong", [-1, 12])
def test_labels_outside_the_vocabulary(wrong):
    labels = targets("CTC")
    labels[1, 0] = wrong
    with pytest.raises(ValueError, match=rf"`labels` holds {wrong}, .* has 12 tokens, 0 to 11. .*vocab_size"):
        make("CTC")(**inputs_for("audio", batch=3), labels=labels)


def test_labels_of_another_shape():
    model, batch = make("CTC"), inputs_for("audio", batch=3)
    for labels in (torch.ones(3).long(), torch.ones(2, 4).long(), torch.ones(3, 4)):
        with pytest.raises(ValueError, match=r"token ids of shape \(3, labels of the longest transcript\)"):
            model(**batch, labels=labels)


# What is hidden in training


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
    with pytest.raises(ValueError, match=r"`mask` must be bool of shape \(2, 18\)"):
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


# Padding and length


def left_padded(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same recordings at the end of their rows, moved by a multiple of the frames' stride."""
    lengths = batch["attention_mask"].sum(1).tolist()
    rows = {}
    for name, x in batch.items():
        moved = [row.roll((len(row) - n) // 320 * 320) for row, n in zip(x, lengths, strict=True)]
        rows[name] = torch.stack(moved)
    return rows


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head, side):
    model = make(head, {"use_weighted_layer_sum": True})
    batch, singles = padded_inputs("audio")
    if side == "left":
        batch = left_padded(batch)
    together = model(**batch)
    real = model.data2vec(**batch).attention_mask
    for i, single in enumerate(singles):
        alone = model(**single)
        mine = together.logits[i] if together.logits.dim() == 2 else together.logits[i][real[i]]
        torch.testing.assert_close(mine, alone.logits[0], atol=1e-5, rtol=1e-5)
        if head == "XVector":
            torch.testing.assert_close(together.embeddings[i], alone.embeddings[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_one_frame_is_enough(head):
    model = make(head).train()
    batch = inputs_for("audio", size=400)
    labels = targets(head, 2)
    labels = labels[:, :1] if head in ("CTC", "AudioFrameClassification") else labels
    model(**batch, labels=labels).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_recording_shorter_than_one_frame_beside_longer_ones():
    for head in HEADS:
        model = make(head)
        batch = inputs_for("audio", batch=2)
        mask = torch.ones(2, 6000, dtype=torch.long)
        mask[1, 300:] = 0
        labels = targets(head, 2)
        if head == "CTC":
            labels[1] = -100
        output = model(**batch, attention_mask=mask, labels=labels)
        assert torch.isfinite(output.loss) and torch.isfinite(output.logits).all()


# Weighted layers


@pytest.mark.parametrize("head", HEADS[1:])
def test_layers_are_weighted(head):
    batch = inputs_for("audio", batch=3)
    model = make(head, {"use_weighted_layer_sum": True})
    assert model.layer_sum.weights.shape == (3,)
    model.set_attn_implementation("eager")
    hidden = model.data2vec(**batch, output_hidden_states=True).hidden_states
    expected = torch.einsum("l,lbtd->btd", model.layer_sum.weights.softmax(0), torch.stack(hidden))
    torch.testing.assert_close(model.encode(**batch, attention_mask=None, mask_time_indices=None)[1], expected)
    assert model(**batch).hidden_states is None
    assert len(model(**batch, output_hidden_states=True).hidden_states) == 3
    model(**batch, labels=targets(head)).loss.backward()
    assert model.layer_sum.weights.grad.all()
    model.data2vec.zero_grad(set_to_none=True)
    model.freeze_base_model()
    model(**batch, labels=targets(head)).loss.backward()
    assert not any(p.grad is not None for p in model.data2vec.parameters())


def test_new_weights_of_layers_are_equal_and_those_of_speakers_normal(pretrained):
    model = AutoModelForAudioFrameClassification.from_pretrained(pretrained["audio"], use_weighted_layer_sum=True)
    torch.testing.assert_close(model.layer_sum.weights, torch.full((3,), 1 / 3))
    model = AutoModelForAudioXVector.from_pretrained(pretrained["audio"], num_labels=300, xvector_output_dim=64)
    assert model.objective.weight.shape == (64, 300) and abs(model.objective.weight.std().item() - 1) < 0.02
    assert model.layer_sum is None


def test_frozen_parts():
    model = make("CTC").train()
    model.freeze_feature_encoder()
    model(**inputs_for("audio"), labels=targets("CTC", 2)).loss.backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {name for name, _ in model.named_parameters() if ".conv_layers." in name} and frozen


# Classification


def test_regression_and_several_labels():
    batch = inputs_for("audio", batch=3)
    model = make("AudioClassification", num_labels=1)
    numbers = torch.tensor([0.5, -1.0, 4.0])
    output = model(**batch, labels=numbers)
    torch.testing.assert_close(output.loss, F.mse_loss(output.logits[:, 0], numbers))
    model = make("AudioClassification")
    output = model(**batch, labels=torch.eye(3))
    torch.testing.assert_close(output.loss, F.binary_cross_entropy_with_logits(output.logits, torch.eye(3)))


def test_frames_of_padding_and_without_label_are_left_out():
    model = make("AudioFrameClassification")
    batch, singles = padded_inputs("audio")
    labels = targets("AudioFrameClassification")
    labels[0, 3:7] = -100
    losses, count = 0, 0
    for single, row in zip(singles, labels, strict=True):
        logits = model(**single).logits[0]
        row = row[: len(logits)]
        losses = losses + F.cross_entropy(logits, row, ignore_index=-100, reduction="sum")
        count += row.ne(-100).sum()
    torch.testing.assert_close(model(**batch, labels=labels).loss, losses / count)
    torch.testing.assert_close(model(**batch, labels=labels, num_items_in_batch=10).loss, losses / 10)
    flags = F.one_hot(labels.clamp(min=0), LABELS)
    flags[labels == -100] = -100
    for same in (flags, flags.float()):
        torch.testing.assert_close(model(**batch, labels=same).loss, losses / count)
    # Trainer counts every element of the flags.
    torch.testing.assert_close(model(**batch, labels=flags, num_items_in_batch=30).loss, losses / 10)


def test_classes_of_a_frame_may_coincide():
    model = make("AudioFrameClassification", problem_type="multi_label_classification")
    batch, _ = padded_inputs("audio")
    flags = torch.randint(0, 2, (3, FRAMES, LABELS), generator=torch.Generator().manual_seed(1))
    flags[0, 2] = -100
    output = model(**batch, labels=flags)
    keep = model.data2vec(**batch).attention_mask
    keep[0, 2] = False
    expected = F.binary_cross_entropy_with_logits(output.logits[keep], flags[keep].float())
    torch.testing.assert_close(output.loss, expected)
    total = expected * keep.sum() * LABELS
    torch.testing.assert_close(model(**batch, labels=flags, num_items_in_batch=77).loss, total / 77)
    with pytest.raises(ValueError, match="not of exactly one class"):
        make("AudioFrameClassification")(**batch, labels=flags)
    active = make("AudioFrameClassification", num_labels=1)
    output = active(**batch, labels=flags[..., 0])
    expected = F.binary_cross_entropy_with_logits(output.logits[keep][:, 0], flags[keep][:, 0].float())
    torch.testing.assert_close(output.loss, expected)


def test_labels_that_do_not_fit_the_frames():
    model, batch = make("AudioFrameClassification"), inputs_for("audio", batch=3)
    with pytest.raises(ValueError, match=r"shape \(3, 17\); a batch of 3 samples with 18 frames.*\(3, 18, 3\)"):
        model(**batch, labels=torch.zeros(3, 17).long())
    with pytest.raises(ValueError, match="`labels` holds 3; class ids go from 0 to 2"):
        model(**batch, labels=torch.full((3, 18), 3))
    assert model(**batch, labels=torch.full((3, 18), -100)).loss == 0


# Speakers


def test_the_margin_is_taken_from_the_right_speaker():
    model, batch = make("XVector"), inputs_for("audio", batch=3)
    labels = torch.tensor([2, 0, -100])
    output = model(**batch, labels=labels)
    assert output.logits.shape == output.embeddings.shape == (3, 14)
    cosines = F.cosine_similarity(output.logits[:, :, None], model.objective.weight[None], dim=1)
    cosines[0, 2] -= 0.4
    cosines[1, 0] -= 0.4
    torch.testing.assert_close(output.loss, F.cross_entropy(30 * cosines[:2], labels[:2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.classifier(output.embeddings), output.logits)
    with pytest.raises(ValueError, match="`labels` holds 3; class ids go from 0 to 2"):
        model(**batch, labels=torch.tensor([0, 1, 3]))


def test_speakers_are_pooled_over_whole_windows():
    model = make("XVector")
    hidden = torch.randn(1, 12, 32)
    x = model.projector(hidden).transpose(1, 2)
    for layer in model.tdnn:
        kernel, dilation = len(layer.offsets), layer.offsets.step
        weight = layer.kernel.weight.view(-1, kernel, x.shape[1]).transpose(1, 2)
        x = F.conv1d(x, weight, layer.kernel.bias, dilation=dilation).relu()
    assert x.shape[-1] == 12 - model.context == 8
    expected = torch.cat([x.mean(-1), x.std(-1)], dim=1)
    torch.testing.assert_close(model.statistics(hidden, torch.ones(1, 12).bool()), expected, atol=2e-6, rtol=1e-5)


def test_channels_that_never_vary_have_a_gradient():
    model = make("XVector")
    hidden = torch.zeros(2, 12, 32, requires_grad=True)
    model.statistics(hidden, torch.ones(2, 12).bool()).sum().backward()
    assert torch.isfinite(hidden.grad).all()


# Configuration


@pytest.mark.parametrize(
    "audio, message",
    [
        ({"mask_time_prob": 1.0}, "`mask_time_prob` is 1.0; it must be at least 0 and below 1"),
        ({"mask_feature_prob": -0.1}, "`mask_feature_prob` is -0.1"),
        ({"mask_time_length": 0}, "`mask_time_length` is 0; it must be at least 1"),
        ({"mask_feature_min_masks": -1}, "`mask_feature_min_masks` is -1"),
        ({"ctc_loss_reduction": "none"}, "`ctc_loss_reduction` is 'none'; it must be one of 'mean', 'sum'"),
        ({"final_dropout": 1.0}, "`final_dropout` is 1.0"),
        ({"feat_proj_dropout": 1.5}, "`feat_proj_dropout` is 1.5"),
        ({"vocab_size": 0}, "`vocab_size` is 0"),
        ({"pad_token_id": -1}, r"`pad_token_id` \(the blank of CTC\) is -1"),
        ({"tdnn_dim": [8, 8]}, "`tdnn_dim`, `tdnn_kernel`, `tdnn_dilation` need one entry a layer; they have 2, 5, 5"),
        ({"tdnn_dim": [], "tdnn_kernel": [], "tdnn_dilation": []}, "`tdnn_dim` is 0"),
        ({"mask_time_probability": 0.1}, "did you mean `mask_time_prob`"),
    ],
)
def test_settings_that_cannot_work(audio, message):
    with pytest.raises(ValueError, match=message):
        tiny_config("audio", audio_config=audio)


def test_settings_survive_json(tmp_path):
    config = tiny_config("audio", audio_config={"tdnn_dim": (8,) * 5, "ctc_zero_infinity": False})
    config.save_pretrained(tmp_path)
    again = modeling_d2v.Data2VecConfig.from_pretrained(tmp_path)
    assert again.audio_config.tdnn_dim == [8] * 5 and again.to_dict() == config.to_dict()
    assert Data2VecForXVector(again).context == 14


def test_the_dropout_of_features_is_applied():
    model = make("CTC", {"feat_proj_dropout": 0.5})
    local = model.data2vec.modality_encoders["audio"].local_encoder
    values = inputs_for("audio")["input_values"]
    assert (local.train()(values, None).features == 0).float().mean() > 0.4
    assert (local.eval()(values, None).features == 0).float().mean() < 0.01
