"""Speech recognition: the loss against an enumeration of paths, transcripts that do not fit, the vocabulary."""

import itertools

import pytest
import torch
from audio_factory import left_padded, make, targets
from model_factory import inputs_for, padded_inputs, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForCTC

from modeling_d2v import Data2VecForCTC, Data2VecForPreTraining
from modeling_d2v.ctc import ctc_loss, ctc_min_frames


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
    with pytest.raises(ValueError, match="`pad_token_id`.*40.*40"):
        AutoModelForCTC.from_pretrained(pretrained["audio"], vocab_size=40, pad_token_id=40)
    with pytest.raises(ValueError, match="Data2VecForCTC"):
        Data2VecForCTC(tiny_config("text"))


@pytest.mark.parametrize("wrong", [-1, 12])
def test_labels_outside_the_vocabulary(wrong):
    labels = targets("CTC")
    labels[1, 0] = wrong
    with pytest.raises(ValueError, match=f"`labels`.*{wrong}.*12.*0.*11.*vocab_size"):
        make("CTC")(**inputs_for("audio", batch=3), labels=labels)


def test_labels_of_another_shape():
    model, batch = make("CTC"), inputs_for("audio", batch=3)
    for labels in (torch.ones(3).long(), torch.ones(2, 4).long(), torch.ones(3, 4)):
        with pytest.raises(ValueError, match="shape"):
            model(**batch, labels=labels)
