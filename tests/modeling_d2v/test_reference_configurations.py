"""data2vec 2.0 in configurations that no published model has, against numbers recorded from the reference.

`tests/fixtures/reference/variants` holds small models that cover its settings between them; the larger ones of the
shared folder hold every intermediate result.
"""

import pytest
import torch
from safetensors.torch import load_file

from modeling_d2v import Data2VecForPreTraining, Data2VecModel
from modeling_d2v.configuration_modalities import norm_names
from modeling_d2v.conversion.fairseq.convert import convert_checkpoint
from tests.modeling_d2v.reference_fixtures import (
    FOLDER,
    VARIANTS,
    assert_close,
    load_reference,
    parameter_norms,
    record_features,
    record_student,
    record_teacher,
    train_three_steps,
)


SHARED = ("d2v2_audio_perlayer", "d2v2_image_noprenet", "d2v2_text_alibi", "d2v2_text_preln")
HALF = ("d2v2_audio_perlayer", "d2v2_image_noprenet")
# Relative; loss of a training step and movement of the teacher.
LOSS_TOLERANCE, MOVE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3, 1e-3


@pytest.fixture(params=[*VARIANTS, *(pytest.param(name, marks=pytest.mark.shared) for name in SHARED)])
def reference(request):
    if request.param in VARIANTS:
        return load_reference(request.param, FOLDER / "variants")
    return load_reference(request.param, request.getfixturevalue("shared_dir") / "reference" / "fairseq")


def modality_config(model):
    return model.config.modality_config(model.config.modalities[0])


def recorded(expected, *names):
    """The recorded tensors of these names, or of those that begin with them, that this fixture has."""
    return {name: value for name, value in expected.items() if name.startswith(names)}


def test_the_variants_are_there():
    assert len(VARIANTS) >= 11


def test_features_and_teacher(reference):
    model, expected = reference.model(fairseq_compatible_padding=True), reference.expected()
    result = "block" if modality_config(model).end_of_block_targets else "feed_forward"
    seen = record_features(model, reference.batch())
    taught = record_teacher(model, reference.batch())
    assert_close(seen["x"], expected["features.x"], "features.x")
    assert_close(taught["targets"], expected["targets_full"], "targets_full")
    for name, value in recorded(expected, "local_features").items():
        assert_close(seen[name], value, name)
    for name, value in recorded(expected, "features.layer_results.", "teacher.layer_results.").items():
        layer = name.rpartition(".")[2]
        assert_close((taught if "teacher" in name else seen)[f"{result}.{layer}"], value, name)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_masked_features_with_both_kinds_of_attention(reference, attention):
    model = reference.model(fairseq_compatible_padding=True).data2vec
    model.set_attn_implementation(attention)
    with torch.no_grad():
        hidden = model(**(reference.batch() | {"mask": reference.tensors["in.mask_single"].bool()})).last_hidden_state
    extra = modality_config(model).num_extra_tokens
    assert_close(hidden[:, extra:], reference.expected()["features_masked.x"], "features_masked.x")


def test_student_and_decoder(reference):
    model, expected = reference.model(fairseq_compatible_padding=True), reference.expected()
    if "decoder_out" not in expected:
        assert reference.name in VARIANTS
        return
    seen = record_student(model, reference.batch())
    for name in ("encoder_in", "encoder_x", "decoder_out"):
        assert_close(seen[name], expected[name], name)


def test_predictions_targets_and_losses(reference):
    expected, n = reference.expected(), reference.num_items
    with torch.no_grad():
        output = reference.model(fairseq_compatible_padding=True)(**reference.batch())
    # With two decoders, the last one is that of the modality.
    name = next(key for key in reversed(sorted(expected)) if "_regression" in key and key.endswith(".pred"))
    name = name.removesuffix(".pred")
    assert_close(output.predictions, expected[f"{name}.pred"], "predictions")
    assert_close(output.targets, expected[f"{name}.target"], "targets")
    losses = {
        key: value["sum"] if isinstance(value, dict) else value for key, value in reference.scalars["losses"].items()
    }
    names = {"cls": "cls", "recon": "reconstruction"}
    names |= {key: "shared_regression" for key in reference.scalars["losses"] if key.endswith("_regression_0")}
    ours = {names.get(key, "regression"): value for key, value in losses.items()}
    assert {key: value.item() * n for key, value in output.losses.items()} == pytest.approx(ours, rel=1e-5)
    assert output.loss.item() * n == pytest.approx(sum(ours.values()), rel=1e-5)


def test_gradients(reference):
    model = reference.model(fairseq_compatible_padding=True)
    norms = parameter_norms(model, reference.batch(), reference.num_items)
    expected = reference.norms_by_place(reference.scalars["grad_norm"])
    assert norms.keys() == expected.keys()
    # Gradients that are sums to zero, of a bias before a norm, have only rounding errors.
    floor = 1e-6 * max(expected.values())
    assert norms == pytest.approx(expected, rel=GRADIENT_TOLERANCE, abs=floor)


def test_three_training_steps(reference):
    model = reference.model(fairseq_compatible_padding=True)
    losses, _, moved = train_three_steps(model, reference.batch())
    trace = [row["loss_per_sample"] for row in reference.scalars["train_trace"]]
    assert losses == pytest.approx(trace, rel=LOSS_TOLERANCE)
    expected = reference.norms_by_place(reference.scalars["ema_delta_norm_after_3_steps"], teacher=True)
    assert {key: moved[key] for key in expected if key in moved} == pytest.approx(
        {key: value for key, value in expected.items() if key in moved}, rel=MOVE_TOLERANCE
    )
    # A fixed scale of the attention bias is a setting here.
    assert all(key.endswith("attention_bias.scale") and expected[key] == 0 for key in expected.keys() - moved.keys())


def test_an_unpadded_sample_has_the_same_results_by_default(reference):
    """Alone and beside a padded one, where padding does not take part."""
    model, beside = reference.model(), reference.batch()
    real = beside.get("attention_mask", torch.ones(len(beside["mask"]), 1)).flatten(1).all(dim=1)
    sample = real.nonzero()[0].item()
    alone, expected = reference.batch(sample), reference.expected(sample)
    for batch, row in ((alone, 0), (beside, sample)):
        seen, taught = record_features(model, batch), record_teacher(model, batch)
        assert_close(seen["x"][row : row + 1], expected["features.x"], "features.x")
        if "batch" not in norm_names(modality_config(model).layer_target_norm):
            assert_close(taught["targets"][row : row + 1], expected["targets_full"], "targets_full")
    with torch.no_grad():
        one, all_of_them = model(**alone), model(**beside)
    rows = torch.arange(len(beside["mask"]))[:, None, None].expand_as(all_of_them.mask)[all_of_them.mask] == sample
    assert_close(one.predictions, all_of_them.predictions[rows], "predictions")


def test_saved_and_loaded(reference, tmp_path):
    model, batch = reference.model(fairseq_compatible_padding=True), reference.batch()
    model.save_pretrained(tmp_path / "whole")
    again, info = Data2VecForPreTraining.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    encoder = Data2VecModel.from_pretrained(tmp_path / "whole").eval()
    inputs = {name: value for name, value in batch.items() if name != "mask"}
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).loss, model(**batch).loss)
        assert torch.equal(encoder(**inputs).last_hidden_state, model.data2vec(**inputs).last_hidden_state)


@pytest.mark.shared
@pytest.mark.parametrize("name", HALF)
def test_a_student_in_half_precision_beside_a_teacher_in_float32(name, shared_dir):
    folder = shared_dir / "reference" / "fairseq"
    reference, expected = load_reference(name, folder), load_file(folder / f"{name}_fp16.expected.safetensors")
    converted = convert_checkpoint(folder / f"{name}_fp16.pt")
    converted.config.fairseq_compatible_padding = True
    for modality in converted.config.modalities:
        converted.config.modality_config(modality).cls_loss_rows = None  # the recording has the rows of its batch
    model = converted.build()
    features = expected["out.features.x"]
    error = (record_features(model, reference.batch())["x"] - features).abs().max() / features.abs().max()
    assert error < 1e-3
    with torch.no_grad():
        loss = model(**reference.batch()).loss.item() * reference.num_items
    total = sum(value.item() for key, value in expected.items() if key.endswith("loss_sum"))
    assert loss == pytest.approx(total, rel=1e-3)
