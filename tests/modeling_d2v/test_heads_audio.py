"""Speech heads: padding, short recordings, weighted layers, losses of the classifiers, mistakes."""

import pytest
import torch
from audio_factory import FRAMES, HEADS, LABELS, left_padded, make, targets
from model_factory import inputs_for, padded_inputs, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForAudioFrameClassification, AutoModelForAudioXVector

import modeling_d2v
from modeling_d2v import Data2VecForPreTraining, Data2VecForXVector


# Padding and length


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("head", HEADS)
def test_padding_changes_nothing(head, side):
    model = make(head, {"use_weighted_layer_sum": True})
    batch, singles = padded_inputs("audio")
    if side == "left":
        batch = left_padded(batch)
    together = model(**batch)
    real = model.data2vec(**batch).attention_mask.bool()
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


# Weighted layers


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Folder of a pretraining checkpoint."""
    folder = tmp_path_factory.mktemp("audio")
    Data2VecForPreTraining(tiny_config("audio")).save_pretrained(folder)
    return folder


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
    model = AutoModelForAudioFrameClassification.from_pretrained(pretrained, use_weighted_layer_sum=True)
    torch.testing.assert_close(model.layer_sum.weights, torch.full((3,), 1 / 3))
    model = AutoModelForAudioXVector.from_pretrained(pretrained, num_labels=300, xvector_output_dim=64)
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
    keep = model.data2vec(**batch).attention_mask.bool()
    keep[0, 2] = False
    expected = F.binary_cross_entropy_with_logits(output.logits[keep], flags[keep].float())
    torch.testing.assert_close(output.loss, expected)
    total = expected * keep.sum() * LABELS
    torch.testing.assert_close(model(**batch, labels=flags, num_items_in_batch=77).loss, total / 77)
    with pytest.raises(ValueError, match="exactly"):
        make("AudioFrameClassification")(**batch, labels=flags)
    with pytest.raises(ValueError, match="holds 2"):
        model(**batch, labels=flags * 2)
    active = make("AudioFrameClassification", num_labels=1)
    output = active(**batch, labels=flags[..., 0])
    expected = F.binary_cross_entropy_with_logits(output.logits[keep][:, 0], flags[keep][:, 0].float())
    torch.testing.assert_close(output.loss, expected)


def test_labels_that_do_not_fit_the_frames():
    model, batch = make("AudioFrameClassification"), inputs_for("audio", batch=3)
    with pytest.raises(ValueError, match=r"\(3, 17\).*\(3, 18, 3\)"):
        model(**batch, labels=torch.zeros(3, 17).long())
    with pytest.raises(ValueError, match="`labels`.*3.*0.*2"):
        model(**batch, labels=torch.full((3, 18), 3))
    assert model(**batch, labels=torch.full((3, 18), -100)).loss == 0


# Speakers


# Configuration


@pytest.mark.parametrize(
    "audio, message",
    [
        ({"mask_time_prob": 1.0}, "`mask_time_prob`.*1.0"),
        ({"mask_feature_prob": -0.1}, "`mask_feature_prob`.*-0.1"),
        ({"mask_time_length": 0}, "`mask_time_length`"),
        ({"mask_feature_min_masks": -1}, "`mask_feature_min_masks`.*-1"),
        ({"ctc_loss_reduction": "none"}, "`ctc_loss_reduction`.*'none'.*'mean'.*'sum'"),
        ({"final_dropout": 1.0}, "`final_dropout`.*1.0"),
        ({"feat_proj_dropout": 1.5}, "`feat_proj_dropout`.*1.5"),
        ({"vocab_size": 0}, "`vocab_size`.*0"),
        ({"pad_token_id": -1}, "`pad_token_id`.*-1"),
        ({"tdnn_dim": [8, 8]}, "`tdnn_dim`.*`tdnn_kernel`.*`tdnn_dilation`.*2.*5.*5"),
        ({"tdnn_dim": [], "tdnn_kernel": [], "tdnn_dilation": []}, "`tdnn_dim`.*0"),
        ({"mask_time_probability": 0.1}, "`mask_time_prob`"),
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
