"""data2vec 2.0 against numbers recorded from the reference implementation.

`fairseq_compatible_padding=True` lets padding take part as the reference does, and then everything is equal, padding
included: no tensor is exempt. With the default, a sample in which nothing is padding must still give the same numbers,
alone or beside padded ones.

Only `d2v2_text_preln` is compared in pieces: the reference's pre-norm block loses its first residual, which ours does
not copy, so nothing that went through a block can be equal.
"""

import pytest
import torch

from modeling_d2v.targets import TargetMean
from tests.modeling_d2v.reference_fixtures import (
    RECORDED,
    UNPADDED,
    V2,
    assert_close,
    load_reference,
    parameter_norms,
    record_features,
    record_student,
    record_teacher,
)


SCALAR_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3


@pytest.fixture(params=V2)
def reference(request):
    return load_reference(request.param)


def check_features(model, batch, expected, rows=slice(None)):
    seen = record_features(model, batch)
    assert_close(seen["local_features"][rows], expected["local_features"], "local_features")
    layers = model.config.num_hidden_layers
    for i in range(layers):
        assert_close(seen[f"feed_forward.{i}"][rows], expected[f"features.layer_results.{i}"], f"layer result {i}")
    assert_close(seen["x"][rows], expected["features.x"], "features.x")


def check_teacher(model, batch, expected, rows=slice(None)):
    seen = record_teacher(model, batch)
    for i in range(model.config.num_hidden_layers):
        assert_close(seen[f"feed_forward.{i}"][rows], expected[f"teacher.layer_results.{i}"], f"teacher layer {i}")
    assert_close(seen["targets"][rows], expected["targets_full"], "targets_full")


def check_student(model, batch, expected):
    seen = record_student(model, batch)
    assert torch.equal(seen["ids_keep"], expected["ids_keep"])
    for name in ("encoder_in", "encoder_x", "decoder_out"):
        assert_close(seen[name], expected[name], name)
    return seen


def main_loss(expected):
    """Name of the regression loss in the fixture, such as AUDIO_regression."""
    return next(name.removesuffix(".pred") for name in expected if name.endswith("_regression.pred"))


def test_the_fixtures_hold_what_is_compared(reference):
    assert set().union(*RECORDED.values()) & reference.expected().keys() == reference.recorded


def test_features(reference):
    model = reference.model(fairseq_compatible_padding=True)
    expected = reference.expected()
    check_features(model, reference.batch(), expected)
    if "features.padding_mask" in reference.recorded:
        seen = record_features(model, reference.batch())
        assert torch.equal(seen["padding_mask"], expected["features.padding_mask"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_features_with_masked_tokens_hidden_in_place(reference, attention):
    model = reference.model(fairseq_compatible_padding=True).data2vec
    model.set_attn_implementation(attention)
    batch = reference.batch() | {"mask": reference.tensors["in.mask_single"].bool()}
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    extra = model.config.modality_config(model.config.modalities[0]).num_extra_tokens
    assert_close(hidden[:, extra:], reference.expected()["features_masked.x"], "features_masked.x")


def test_student_and_decoder(reference):
    model = reference.model(fairseq_compatible_padding=True)
    expected = reference.expected()
    seen = check_student(model, reference.batch(), expected)
    if "encoder_padding_mask" in reference.recorded:
        assert torch.equal(seen["encoder_padding_mask"], expected["encoder_padding_mask"])
    if "alibi_bias_sample0" in reference.recorded:
        assert_close(seen["alibi_bias_sample0"], expected["alibi_bias_sample0"], "alibi_bias_sample0")


def test_teacher_and_targets(reference):
    check_teacher(reference.model(fairseq_compatible_padding=True), reference.batch(), reference.expected())


def test_losses(reference):
    expected, n = reference.expected(), reference.num_items
    with torch.no_grad():
        output = reference.model(fairseq_compatible_padding=True)(**reference.batch())
    name = main_loss(expected)
    assert_close(output.predictions, expected[f"{name}.pred"], "predictions")
    assert_close(output.targets, expected[f"{name}.target"], "targets")
    assert output.num_items.item() == n
    recorded = {"regression": expected[f"{name}.loss_sum"]}
    if "cls.loss_sum" in reference.recorded:
        recorded["cls"] = expected["cls.loss_sum"]
    assert output.losses.keys() == recorded.keys()
    for key, value in recorded.items():
        assert_close(output.losses[key] * n, value, f"{key} loss")
    assert_close(output.loss * n, sum(recorded.values()), "loss")
    # The reference calls its collapse measures variances, but they are standard deviations.
    assert output.prediction_std.item() == pytest.approx(reference.scalars["pred_var"], rel=SCALAR_TOLERANCE)
    assert output.target_std.item() == pytest.approx(reference.scalars["target_var"], rel=SCALAR_TOLERANCE)


def test_cls_loss_regresses_the_mean_target():
    reference = load_reference("d2v2_image_base")
    model, expected = reference.model(), reference.expected()
    seen = record_student(model, reference.batch())
    assert_close(seen["encoder_x"][:, 0], expected["cls.pred"], "cls.pred")
    targets = record_teacher(model, reference.batch())["targets"].mean(dim=1)
    assert_close(targets.repeat_interleave(4, dim=0), expected["cls.target"], "cls.target")


def test_gradients(reference):
    norms = parameter_norms(reference.model(fairseq_compatible_padding=True), reference.batch(), reference.num_items)
    expected = reference.norms_by_place(reference.scalars["grad_norm"])
    assert norms.keys() == expected.keys()
    assert norms == pytest.approx(expected, rel=GRADIENT_TOLERANCE)


def test_default_padding_gives_the_same_for_an_unpadded_sample_alone(reference):
    sample = UNPADDED.get(reference.name, 0)
    batch, expected = reference.batch(sample), reference.expected(sample)
    model, compatible = reference.model(), reference.model(fairseq_compatible_padding=True)
    check_features(model, batch, expected)
    check_teacher(model, batch, expected)
    check_student(model, batch, expected)
    with torch.no_grad():
        output, other = model(**batch), compatible(**batch)
    name = main_loss(expected)
    assert_close(output.predictions, expected[f"{name}.pred"], "predictions")
    assert_close(output.targets, expected[f"{name}.target"], "targets")
    assert_close(output.loss, other.loss, "loss")


def test_default_padding_gives_the_same_for_an_unpadded_sample_beside_a_padded_one(reference):
    sample = UNPADDED.get(reference.name, 0)
    batch, expected = reference.batch(), reference.expected(sample)
    model, rows = reference.model(), slice(sample, sample + 1)
    check_features(model, batch, expected, rows)
    check_teacher(model, batch, expected, rows)
    with torch.no_grad():
        output = model(**batch)
    rows = torch.arange(len(batch["mask"]))[:, None, None].expand_as(output.mask)[output.mask] == sample
    assert_close(output.predictions[rows], expected[f"{main_loss(expected)}.pred"], "predictions")
    assert_close(output.targets[rows], expected[f"{main_loss(expected)}.target"], "targets")


@pytest.fixture
def preln():
    """Pre-norm fixture and the parts of its model that do not lie behind a block."""
    reference = load_reference("d2v2_text_preln")
    model = reference.model(optional=("data2vec.encoder.", "teacher."), fairseq_compatible_padding=True)
    return reference, model


def test_prenorm_input_of_the_blocks(preln):
    reference, model = preln
    expected, batch = reference.expected(), reference.batch()
    assert_close(record_features(model, batch)["local_features"], expected["local_features"], "local_features")
    seen = record_student(model, batch)
    assert torch.equal(seen["ids_keep"], expected["ids_keep"])
    assert_close(seen["encoder_in"], expected["encoder_in"], "encoder_in")


def test_batch_norm_targets_from_recorded_layers(preln):
    reference, model = preln
    expected = reference.expected()
    mean = TargetMean(model.config.text_config, model.config.num_hidden_layers, None)
    for i in range(model.config.num_hidden_layers):
        mean(i, torch.empty(0), expected[f"teacher.layer_results.{i}"])
    assert_close(mean.result(), expected["targets_full"], "targets_full")


def test_one_projection_decoder_from_recorded_encoder_output(preln):
    reference, model = preln
    expected, batch = reference.expected(), reference.batch()
    encoder, decoder = model.data2vec.modality_encoders["text"], model.decoders["text"]
    local = model.data2vec.local_features(encoder, batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        tokens, _ = model.data2vec.encode(encoder, local, batch["mask"], drop=True)
        out = decoder.projection(decoder.features(expected["encoder_x"], tokens, local, batch["mask"]))
    assert_close(out, expected["decoder_out"], "decoder_out")


def test_smooth_l1_loss_from_recorded_pair(preln):
    reference, model = preln
    expected = reference.expected()
    name = main_loss(expected)
    assert model.config.text_config.loss_beta > 0
    loss = model._distance(model.config.text_config, expected[f"{name}.pred"], expected[f"{name}.target"])
    assert_close(loss, expected[f"{name}.loss_sum"], "loss")
