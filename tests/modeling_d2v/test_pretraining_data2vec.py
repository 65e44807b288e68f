"""The objective: masks, losses, teacher, padding invariance, normalisation over batches, bad input."""

import pytest
import torch
from model_factory import (
    MODALITIES,
    VERSIONS,
    inputs_for,
    padded_inputs,
    randomise,
    relative_error,
    tiny_config,
    version_config,
)
from torch.nn import functional as F

from modeling_d2v import Data2VecForPreTraining


ALL = [(version, modality) for version in VERSIONS for modality in MODALITIES]


def make(version: str, modality: str, **overrides) -> Data2VecForPreTraining:
    model = randomise(Data2VecForPreTraining(version_config(version, modality, **overrides)))
    with torch.no_grad():  # a teacher that equalled the student could hide that the wrong one is used
        for parameter in model.teacher.parameters():
            parameter.mul_(1.1)
    return model.eval()


@pytest.mark.parametrize(("version", "modality"), ALL)
def test_every_student_parameter_learns_and_no_teacher_parameter_does(version, modality):
    model = make(version, modality).train()
    out = model(**inputs_for(modality))
    assert out.loss.requires_grad and torch.isfinite(out.loss)
    torch.testing.assert_close(out.loss, sum(out.losses.values()))
    out.loss.backward()
    lacking = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    lacking = {name for name in lacking if not name.startswith("teacher.")}
    # The final norm has a bias that only matters where it is read; the mask token of padding-free 1.0 must learn.
    assert lacking == set()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("version", "modality"), ALL)
def test_predictions_and_targets_are_the_masked_tokens(version, modality):
    model = make(version, modality)
    mine = model.config.modality_config(modality)
    out = model(**inputs_for(modality))
    assert out.mask.shape[:2] == (2, mine.num_masks) and out.mask.any(dim=2).all() and not out.mask.all(dim=2).any()
    assert out.predictions.shape == out.targets.shape == (out.mask.sum(), 32)
    assert out.num_items == out.mask.sum()
    torch.testing.assert_close(out.masked_fraction, out.mask.float().mean())
    scale = mine.loss_scale or 32**-0.5
    expected = F.mse_loss(out.predictions, out.targets, reduction="sum") * scale / out.num_items
    torch.testing.assert_close(out.losses["regression"], expected)
    torch.testing.assert_close(out.target_std, torch.sqrt(out.targets.var(dim=0) + 1e-6).mean())


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
def test_masked_tokens_are_invisible_to_the_student(modality):
    """Other content under the mask changes targets, never predictions."""
    model = make("2.0", modality)
    mask = torch.zeros(2, 1, {"text": 20, "vision": 16, "audio": 18, "arrays": 12}[modality], dtype=torch.bool)
    mask[:, :, 5:9] = True
    ((name, values),) = inputs_for(modality).items()
    changed = values.clone()
    if modality == "text":
        changed[:, 5:9] = 7
    elif modality == "vision":
        patches = changed.unflatten(2, (4, 8)).unflatten(4, (4, 8))  # (B, C, h, 8, w, 8)
        for place in range(5, 9):
            patches[:, :, place // 4, :, place % 4] = 3.0
    elif modality == "arrays":
        changed[:, 5 * 8 : 9 * 8] = 3.0
    else:
        changed[:, 4 * 320 + 400 : 9 * 320] = 3.0
    first, second = (model(**{name: x}, mask=mask) for x in (values, changed))
    torch.testing.assert_close(first.predictions, second.predictions)
    assert relative_error(first.targets, second.targets) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "audio"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_padded_batch_has_the_loss_of_its_samples_alone(version, modality):
    model = make(version, modality, **({"text_config": TEXT_WITHOUT_CHANCE} if modality == "text" else {}))
    batch, alone = padded_inputs(modality)
    ids = torch.tensor([11, 5, 8])
    together = model(**batch, sample_ids=ids, step=3)
    outs = [model(**sample, sample_ids=ids[i : i + 1], step=3) for i, sample in enumerate(alone)]
    for i, out in enumerate(outs):
        torch.testing.assert_close(together.mask[i, :, : out.mask.shape[2]], out.mask[0])
        assert not together.mask[i, :, out.mask.shape[2] :].any()
    assert relative_error(together.predictions, torch.cat([out.predictions for out in outs])) < 1e-5
    assert relative_error(together.targets, torch.cat([out.targets for out in outs])) < 1e-5
    total = sum(out.loss * out.num_items for out in outs) / together.num_items
    torch.testing.assert_close(together.loss, total, rtol=1e-5, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("modality", ["text", "audio"])
def test_padding_on_the_left_or_inside_changes_nothing_either(modality):
    model = make("2.0", modality)
    ((name, values),) = inputs_for(modality, batch=1, size=8 if modality == "text" else 3920).items()
    shift, pad = (6, 1) if modality == "text" else (4 * 320, 0)
    filling = torch.full((1, shift), pad, dtype=values.dtype)
    mask = torch.cat([torch.zeros(1, shift), torch.ones(values.shape)], dim=1).long()
    ids = torch.tensor([4])
    alone = model(**{name: values}, sample_ids=ids, step=1)
    padded = model(**{name: torch.cat([filling, values], dim=1)}, attention_mask=mask, sample_ids=ids, step=1)
    torch.testing.assert_close(padded.loss, alone.loss, rtol=1e-5, atol=0)
    assert relative_error(padded.predictions, alone.predictions) < 1e-5


@torch.no_grad()
def test_pad_ids_are_padding_without_an_attention_mask_too():
    model = make("2.0", "text")
    batch, _ = padded_inputs("text")
    implied, given = (
        model(**inputs, sample_ids=torch.arange(3), step=1) for inputs in ({**batch, "attention_mask": None}, batch)
    )
    torch.testing.assert_close(implied.loss, given.loss)
    assert torch.equal(implied.mask, given.mask)


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
def test_samples_without_identities_are_told_apart_by_their_content(modality):
    model = make("2.0", modality)
    ((name, values),) = inputs_for(modality, batch=3).items()
    values[2] = values[0]
    mask = model(**{name: values}).mask
    assert torch.equal(mask[0], mask[2]) and not torch.equal(mask[0], mask[1])
    assert torch.equal(model(**{name: values[1:]}).mask, mask[1:])


# Settings of `VERSIONS` for text, where overrides of a sub-configuration would otherwise be lost.
TEXT_WITHOUT_CHANCE = {"num_masks": 1, "mask_random_prob": 0.0, "mask_keep_prob": 0.0}


@torch.no_grad()
def test_ragged_visible_sets_are_padded_without_a_trace():
    model = make("2.0", "text")
    inputs = inputs_for("text")
    mask = torch.rand(2, 3, 20) < 0.5
    mask[0, 0] = torch.arange(20) < 17  # three tokens visible
    mask[1, 2] = torch.arange(20) < 2  # eighteen
    together = model(**inputs, mask=mask)
    rows = []
    for b in range(2):
        for m in range(3):
            one = model(input_ids=inputs["input_ids"][b : b + 1], mask=mask[b : b + 1, m : m + 1])
            rows.append(one.predictions)
    assert relative_error(together.predictions, torch.cat(rows)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("modality", MODALITIES)
def test_masks_are_a_function_of_step_and_sample(modality):
    model = make("2.0", modality)
    inputs = inputs_for(modality)
    mask = model(**inputs, sample_ids=torch.tensor([3, 9]), step=5).mask
    swapped = model(**inputs, sample_ids=torch.tensor([9, 3]), step=5).mask
    assert torch.equal(mask.flip(0), swapped)
    assert not torch.equal(mask, model(**inputs, sample_ids=torch.tensor([3, 9]), step=6).mask)
    model.ema_step.fill_(5)
    assert torch.equal(model(**inputs, sample_ids=torch.tensor([3, 9])).mask, mask)
    assert not torch.equal(mask[:, 0], mask[:, 1])


@pytest.mark.parametrize("modality", MODALITIES)
def test_num_items_makes_batches_add_up(modality):
    """Gradients of two halves, each divided by the count of both, are the gradient of the whole batch."""
    model = make("2.0", modality)
    ((name, values),) = inputs_for(modality, batch=4).items()
    ids = torch.arange(4)
    whole = model(**{name: values}, sample_ids=ids, step=1)
    whole.loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    halves = [
        model(**{name: values[part]}, sample_ids=ids[part], step=1, num_items=whole.num_items)
        for part in (slice(0, 1), slice(1, 4))
    ]
    sum(half.loss for half in halves).backward()
    torch.testing.assert_close(sum(half.loss for half in halves), whole.loss)
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 10
    for n, gradient in found.items():
        torch.testing.assert_close(gradient, expected[n], rtol=1e-3, atol=1e-5, msg=n)


@torch.no_grad()
def test_cls_loss_regresses_the_mean_target():
    model = make("2.0", "vision", vision_config={"cls_loss_weight": 0.5})
    inputs = inputs_for("vision")
    mask = torch.zeros(2, 1, 16, dtype=torch.bool)
    mask[..., :4] = True
    out = model(**inputs, mask=mask)
    local = model.data2vec.local_features(model.data2vec.modality_encoders["vision"], inputs["pixel_values"], None)
    targets = model.teacher_targets("vision", inputs["pixel_values"], None, local)
    _, hidden = model.data2vec.encode(model.data2vec.modality_encoders["vision"], local, mask, drop=True)
    expected = 0.5 * (hidden[:, 0] - targets.mean(dim=1)).square().sum() * 32**-0.5
    torch.testing.assert_close(out.losses["cls"], expected)


@torch.no_grad()
def test_cls_loss_over_given_rows_does_not_depend_on_the_batch():
    cls = {"cls_loss_weight": 0.5, "num_masks": 3}
    plain = make("2.0", "vision", vision_config=cls)
    model = make("2.0", "vision", vision_config=cls | {"cls_loss_rows": 12})
    model.load_state_dict(plain.state_dict())
    inputs = inputs_for("vision")
    ids = torch.tensor([3, 7])
    # Two samples with three masks are six rows: brought to twelve, their sum doubles.
    whole = model(**inputs, sample_ids=ids, step=1).losses["cls"]
    torch.testing.assert_close(whole, 2 * plain(**inputs, sample_ids=ids, step=1).losses["cls"])
    halves = [
        model(pixel_values=inputs["pixel_values"][i : i + 1], sample_ids=ids[i : i + 1], step=1, num_rows=6)
        for i in range(2)
    ]
    torch.testing.assert_close(sum(half.losses["cls"] for half in halves), whole)
    twice = model(pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1), sample_ids=ids.repeat(2), step=1)
    torch.testing.assert_close(twice.losses["cls"], whole)


def test_training_with_noise_does_not_depend_on_how_a_batch_is_cut():
    model = make("2.0", "vision", vision_config={"mask_noise_std": 0.5}).train()
    ((name, values),) = inputs_for("vision", batch=4).items()
    ids = torch.arange(4)
    whole = model(**{name: values}, sample_ids=ids, step=1)
    parts = [model(**{name: values[i : i + 2]}, sample_ids=ids[i : i + 2], step=1) for i in (0, 2)]
    torch.testing.assert_close(torch.cat([part.predictions for part in parts]), whole.predictions)
    assert relative_error(model.eval()(**{name: values}, sample_ids=ids, step=1).predictions, whole.predictions) > 1e-2


# Teacher


def test_the_teacher_has_no_dropout_in_training():
    model = Data2VecForPreTraining(
        tiny_config("vision", hidden_dropout=0.5, mlp_dropout=0.5, vision_config={"prenet_dropout": 0.5})
    ).train()
    assert model.data2vec.training and not any(module.training for module in model.teacher.modules())
    first, second = (model(**inputs_for("vision"), step=1) for _ in range(2))
    torch.testing.assert_close(first.targets, second.targets)
    assert relative_error(first.predictions, second.predictions) > 1e-3


def test_input_gradients_for_adapters_are_those_of_the_student():
    model = Data2VecForPreTraining(tiny_config("text"))
    model.enable_input_require_grads()
    assert torch.isfinite(model(**inputs_for("text")).loss)
    model.disable_input_require_grads()


# Norms and small parts


# Bad input


def test_short_audio_and_samples_of_padding_only_have_a_finite_loss():
    model = make("2.0", "audio").train()
    batch, _ = padded_inputs("audio")
    batch["attention_mask"][1, 400:] = 0  # a single frame: visible, never masked
    batch["attention_mask"][2] = 0
    out = model(**batch)
    assert out.mask[0].any() and not out.mask[1:].any()
    assert torch.isfinite(out.loss)
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    only_one_frame = model(input_values=torch.randn(2, 400))
    assert only_one_frame.num_items == 0 and only_one_frame.loss == 0


def test_a_batch_of_padding_only_has_loss_zero():
    out = make("2.0", "text")(input_ids=torch.ones(2, 6, dtype=torch.long), attention_mask=torch.zeros(2, 6))
    assert out.num_items == 0 and out.loss == 0 and torch.isfinite(out.target_std)


def test_nan_input_gives_a_loss_that_says_so():
    values = inputs_for("audio")["input_values"]
    values[0, 100] = float("nan")
    assert make("2.0", "audio")(input_values=values).loss.isnan()


@pytest.mark.parametrize("everything", [True, False])
def test_masks_of_everything_or_nothing_are_defined(everything):
    model = make("2.0", "audio")
    out = model(**inputs_for("audio"), mask=torch.full((2, 1, 18), everything))
    assert torch.isfinite(out.loss) and out.num_items == 36 * everything


def test_a_mask_of_the_wrong_shape_is_named():
    model = make("2.0", "audio")
    with pytest.raises(ValueError, match=r"`mask`.*\(2.*18\)"):
        model(**inputs_for("audio"), mask=torch.zeros(2, 3, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool"):
        model(**inputs_for("audio"), mask=torch.zeros(2, 3, 18))
    with pytest.raises(ValueError, match="none was given"):
        model()


@pytest.mark.parametrize("modality", MODALITIES)
def test_bfloat16_training_keeps_targets_and_losses_in_float32(modality):
    model = make("2.0", modality).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**inputs_for(modality), step=1)
    exact = model(**inputs_for(modality), step=1)
    assert out.targets.dtype == out.loss.dtype == torch.float32
    assert out.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
    out.loss.backward()


def test_a_few_steps_explain_more_of_the_targets_in_every_modality():
    """The loss alone says little: at the start targets are small, and they grow with the local encoder."""
    model = randomise(Data2VecForPreTraining(tiny_config())).train()
    model.reset_teacher()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    unexplained = {modality: [] for modality in MODALITIES}
    for _ in range(20):
        for modality in MODALITIES:
            out = model(**inputs_for(modality, batch=1), step=1)
            out.loss.backward()
            error = F.mse_loss(out.predictions, out.targets) / out.targets.var()
            unexplained[modality].append(error.item())
        optimizer.step()
        optimizer.zero_grad()
    for modality, values in unexplained.items():
        assert values[-1] < 0.8 * values[0], (modality, values)
