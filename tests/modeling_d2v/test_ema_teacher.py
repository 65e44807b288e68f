"""The teacher: decay, what is averaged and what is copied, three training steps against the reference."""

import pytest
import torch
from model_factory import (
    inputs_for,
    randomise,
    tiny_config,
)

from modeling_d2v import Data2VecForPreTraining
from tests.modeling_d2v.reference_fixtures import V1, V2, load_numbers, load_reference, train_three_steps


LOSS_TOLERANCE = 1e-5
MOVE_TOLERANCE = 1e-3

# One short fixture is enough where the numbers of the reference are not compared.
SMALL = "d2v2_text_base"


def with_schedule(model, start, end, steps):
    model.config.ema_decay, model.config.ema_end_decay, model.config.ema_anneal_end_step = start, end, steps
    return model


def test_decay_is_that_of_the_reference():
    model = load_reference(SMALL).model()
    rows = load_numbers()["annealed_rate"]
    assert len(rows) >= 40
    for row in rows:
        with_schedule(model, row["start"], row["end"], row["total"])
        assert model.teacher_decay(row["step"]) == pytest.approx(row["rate"], rel=0, abs=1e-12)


@pytest.mark.parametrize("name", V2 + V1)
def test_three_training_steps(name):
    reference = load_reference(name)
    model = reference.model(fairseq_compatible_padding=True)
    losses, decays, moved = train_three_steps(model, reference.batch())
    trace = reference.scalars["train_trace"]
    assert losses == pytest.approx([row["loss_per_sample"] for row in trace], rel=LOSS_TOLERANCE)
    assert decays == pytest.approx([row["ema_decay_after"] for row in trace[:3]], rel=1e-9)
    assert model.ema_step.item() == 3
    expected = reference.norms_by_place(reference.scalars["ema_delta_norm_after_3_steps"], teacher=True)
    # A class token that the teacher only borrows is no part of the reference's teacher.
    assert expected.keys() - moved.keys() == set()
    assert all("extra_tokens" in other for other in moved.keys() - expected.keys())
    assert {k: moved[k] for k in expected} == pytest.approx(expected, rel=MOVE_TOLERANCE)


@pytest.mark.parametrize(
    ("name", "copied"), [("d2v1_text_base", ".local_encoder."), ("d2v1_audio_base", ".position_encoder.")]
)
def test_the_reference_copies_instead_of_averaging(name, copied):
    """Averaging everything leaves the same blocks, but moves the copied tensors several times less far."""
    reference = load_reference(name)
    config = reference.config()
    assert config.modality_config(config.modalities[0]).ema_copied == [copied.strip(".")]
    model = reference.model(fairseq_compatible_padding=True)
    model.config.modality_config(config.modalities[0]).ema_copied = None
    moved = train_three_steps(model, reference.batch())[2]
    expected = reference.norms_by_place(reference.scalars["ema_delta_norm_after_3_steps"], teacher=True)
    ratios = {k: moved[k] / v for k, v in expected.items()}
    assert max(ratio for k, ratio in ratios.items() if copied in k) < 0.5
    assert all(abs(ratio - 1) < 0.1 for k, ratio in ratios.items() if ".blocks." in k)


def test_vision_v1_averages_its_position_bias():
    reference = load_reference("d2v1_image_base")
    name = "modality_encoders.vision.attention_bias.table"
    model = reference.model()
    student = dict(model.data2vec.named_parameters())[name].detach()
    before = dict(model.teacher.named_parameters())[name].clone()
    decay = model.update_teacher(1)
    after = dict(model.teacher.named_parameters())[name]
    torch.testing.assert_close(after, decay * before + (1 - decay) * student)


def test_update_moves_the_teacher_by_its_decay():
    model = load_reference(SMALL).model()
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    student = dict(model.data2vec.named_parameters())
    decay = model.update_teacher(4)
    assert decay == model.teacher_decay(4) == pytest.approx(0.9 + 0.09 * 0.4)
    for name, p in model.teacher.named_parameters():
        torch.testing.assert_close(p, decay * before[name] + (1 - decay) * student[name].detach())


def test_update_depends_on_the_step_alone():
    """A resumed run, whose model has seen no update in this process, averages like one that went on."""
    first, second = load_reference(SMALL).model(), load_reference(SMALL).model()
    assert first.update_teacher(7) == second.update_teacher(7)
    for ours, theirs in zip(first.teacher.parameters(), second.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    resumed = load_reference(SMALL).model()
    resumed.load_state_dict(first.state_dict())
    assert resumed.ema_step.item() == 7
    assert first.update_teacher() == resumed.update_teacher() == first.teacher_decay(8)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in first.state_dict().items())


def test_parameters_that_are_not_trained_are_copied():
    model = load_reference(SMALL).model()
    frozen = model.data2vec.encoder.blocks[0].norm1
    frozen.requires_grad_(False)
    model.update_teacher(1)
    assert torch.equal(model.teacher.encoder.blocks[0].norm1.weight, frozen.weight)
    assert not torch.equal(model.teacher.encoder.blocks[1].norm1.weight, model.data2vec.encoder.blocks[1].norm1.weight)


def test_a_decay_of_one_stops_the_average():
    model = with_schedule(load_reference("d2v2_audio_large").model(), 0.9, 1.0, 10)
    before = {name: p.clone() for name, p in model.teacher.named_parameters()}
    assert model.update_teacher(10) == 1.0
    assert all(torch.equal(p, before[name]) for name, p in model.teacher.named_parameters())


def test_the_teacher_gets_no_gradient():
    reference = load_reference("d2v2_image_base")
    model = reference.model()
    model(**reference.batch()).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("d2v2_text_base", {"modality_encoders.text."}),
        ("d2v2_audio_base", {"modality_encoders.audio.local_encoder."}),
        ("d2v2_image_base", set()),
        ("d2v1_image_base", {"modality_encoders.vision.local_encoder.", "modality_encoders.vision.mask_token"}),
    ],
)
def test_scope_of_the_teacher(name, missing):
    model = load_reference(name).model()
    student = {name for name, _ in model.data2vec.named_parameters()}
    teacher = {name for name, _ in model.teacher.named_parameters()}
    left_out = {name for name in student if any(name.startswith(prefix) for prefix in missing)}
    assert teacher == student - left_out
    assert bool(left_out) == bool(missing)


def test_reset_makes_the_teacher_the_student():
    model = load_reference("d2v2_image_base").model()
    model.update_teacher(3)
    model.reset_teacher()
    student = dict(model.data2vec.named_parameters())
    assert all(torch.equal(p, student[name]) for name, p in model.teacher.named_parameters())
    assert model.ema_step.item() == 0


def test_the_teacher_starts_as_the_student_and_follows_it():
    model = Data2VecForPreTraining(tiny_config())
    student = {n: p.detach().clone() for n, p in model.data2vec.named_parameters()}
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, student[name])
    randomise(model.data2vec)
    moved = dict(model.data2vec.named_parameters())
    assert model.update_teacher(4) == pytest.approx(0.936)
    for name, parameter in model.teacher.named_parameters():
        torch.testing.assert_close(parameter, 0.936 * student[name] + 0.064 * moved[name], msg=name)
    assert model.ema_step == 4 and model.state_dict()["ema_step"] == 4
    assert model.update_teacher() == pytest.approx(0.945) and model.ema_step == 5


def test_decay_anneals_linearly_and_then_stays():
    model = Data2VecForPreTraining(tiny_config("text", ema_decay=0.9, ema_end_decay=1.0, ema_anneal_end_step=100))
    assert [model.teacher_decay(step) for step in (0, 1, 50, 100, 10**9)] == pytest.approx([0.9, 0.901, 0.95, 1, 1])
    before = [p.clone() for p in model.teacher.parameters()]
    randomise(model.data2vec)
    model.update_teacher(100)
    assert all(torch.equal(a, b) for a, b in zip(before, model.teacher.parameters(), strict=True))


@pytest.mark.parametrize(
    ("scope", "owned"),
    [
        ("blocks", set()),
        ("context", {"position_encoder", "attention_bias", "prenet", "context_norm"}),
        ("all", {"local_encoder", "position_encoder", "attention_bias", "prenet", "context_norm"}),
    ],
)
def test_the_teacher_owns_what_its_scope_says(scope, owned):
    model = Data2VecForPreTraining(tiny_config("audio", audio_config={"ema_scope": scope}))
    names = [name for name, _ in model.teacher.named_parameters()]
    assert {name.split(".")[2] for name in names if name.startswith("modality_encoders")} == owned
    assert any(name.startswith("encoder.blocks.1.") for name in names)
    assert torch.isfinite(model(**inputs_for("audio")).loss)


def test_copied_and_frozen_parameters_are_copied():
    model = Data2VecForPreTraining(tiny_config("audio", audio_config={"ema_copied": ["position_encoder"]}))
    frozen = "encoder.blocks.0.norm1.weight"
    model.data2vec.get_parameter(frozen).requires_grad_(False)
    before = {n: p.clone() for n, p in model.teacher.named_parameters()}
    randomise(model.data2vec)
    model.update_teacher(1)
    for name, parameter in model.teacher.named_parameters():
        student = model.data2vec.get_parameter(name)
        copied = "position_encoder" in name or name == frozen
        assert torch.equal(parameter, student) == copied, name
        assert not torch.equal(parameter, before[name])


def test_resized_embeddings_reach_the_teacher():
    model = Data2VecForPreTraining(tiny_config("text", text_config={"ema_scope": "all"}))
    with torch.no_grad():
        model.teacher.modality_encoders["text"].local_encoder.token_embeddings.weight.add_(1.0)
    old = model.teacher.modality_encoders["text"].local_encoder.token_embeddings.weight.clone()
    model.resize_token_embeddings(60)
    new = model.teacher.modality_encoders["text"].local_encoder.token_embeddings.weight
    assert new.shape == (60, 32) and torch.equal(new[:50], old) and not new.requires_grad
    model.update_teacher(1)
    assert torch.isfinite(model(input_ids=torch.full((2, 9), 59)).loss)
