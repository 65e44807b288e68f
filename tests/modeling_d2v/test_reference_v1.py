"""data2vec 1.0 against numbers recorded from the reference implementation.

With `fairseq_compatible_padding=True` everything is equal, padding included: no tensor is exempt. With the default, a
sample in which nothing is padding must still give the same numbers, alone or beside a padded one.

The outputs of the teacher's blocks are compared through the targets, which average them: of audio and images they were
not recorded, and those of text were recorded with dropout switched on (equal padding tokens gave different rows).
"""

import pytest
import torch

from modeling_d2v.configuration_modalities import norm_names
from tests.modeling_d2v.reference_fixtures import (
    RECORDED,
    TOLERANCES,
    UNPADDED,
    V1,
    assert_close,
    load_reference,
    parameter_norms,
    record_features,
)


SCALAR_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-3


@pytest.fixture(params=V1)
def reference(request):
    return load_reference(request.param)


def results_of_layers(model, seen):
    """Our results of every block, by the names under which the fixture of the modality holds them."""
    (modality,) = model.config.modalities
    blocks = [seen[f"block.{i}"] for i in range(model.config.num_hidden_layers)]
    if modality == "text":
        return {f"features.inner_states.{i}": states for i, states in enumerate([seen["encoder_in"], *blocks])}
    if modality == "vision":
        extra = model.data2vec.modality_encoders[modality].num_extra
        if not model.config.vision_config.end_of_block_targets:
            return {}  # the reference returns feed-forward parts then, which were not recorded
        return {f"features.layer_results.{i}": states[:, extra:] for i, states in enumerate(blocks)}
    feed_forward = {f"features.layer_results.{i}.ffn": seen[f"feed_forward.{i}"] for i in range(len(blocks))}
    return feed_forward | {f"features.layer_results.{i}.x": states for i, states in enumerate(blocks)}


def check_features(model, batch, expected, rows=slice(None)):
    seen = record_features(model, batch)
    for name, ours in results_of_layers(model, seen).items():
        assert_close(ours[rows], expected[name], name)
    assert_close(seen["x"][rows], expected["features.x"], "features.x")


def test_the_fixtures_hold_what_is_compared(reference):
    assert set().union(*RECORDED.values()) & reference.expected().keys() == reference.recorded


def test_features(reference):
    model = reference.model(fairseq_compatible_padding=True)
    expected = reference.expected()
    check_features(model, reference.batch(), expected)
    if "features.padding_mask" in reference.recorded:
        seen = record_features(model, reference.batch())
        assert torch.equal(seen["padding_mask"], expected["features.padding_mask"])


def test_loss_predictions_and_targets(reference):
    expected, n = reference.expected(), reference.num_items
    with torch.no_grad():
        output = reference.model(fairseq_compatible_padding=True)(**reference.batch())
    assert_close(output.predictions, expected["pred"], "predictions")
    assert_close(output.targets, expected["target"], "targets", TOLERANCES.get(reference.name, 1e-5))
    assert output.num_items.item() == n
    assert_close(output.loss * n, expected["loss_sum"], "loss")


@pytest.mark.parametrize("name", [name for name in V1 if "text" not in name])
def test_measures_of_collapse(name):
    """The reference calls them variances, but they are standard deviations; of text it records none."""
    reference = load_reference(name)
    with torch.no_grad():
        output = reference.model(fairseq_compatible_padding=True)(**reference.batch())
    assert output.prediction_std.item() == pytest.approx(reference.scalars["pred_var"], rel=SCALAR_TOLERANCE)
    assert output.target_std.item() == pytest.approx(reference.scalars["target_var"], rel=SCALAR_TOLERANCE)


def test_recorded_text_input_is_the_masked_target_text():
    reference = load_reference("d2v1_text_base")
    config, mask = reference.config().text_config, reference.tensors["in.mask"].bool()
    source = reference.tensors["in.target_tokens"].masked_fill(mask, config.mask_token_id)
    assert torch.equal(source, reference.tensors["in.src_tokens"])


def test_gradients(reference):
    norms = parameter_norms(reference.model(fairseq_compatible_padding=True), reference.batch(), reference.num_items)
    expected = reference.norms_by_place(reference.scalars["grad_norm"])
    assert norms.keys() == expected.keys()
    # A bias before a norm has no gradient, but rounding leaves some.
    assert norms == pytest.approx(expected, rel=GRADIENT_TOLERANCE, abs=1e-7 * max(expected.values()))


def mixes_samples(reference):
    """Whether a norm of the targets runs over the samples of a batch, so that none has them alone."""
    config = reference.config()
    return "sample" in norm_names(config.modality_config(config.modalities[0]).mean_target_norm)


def test_default_padding_gives_the_same_for_an_unpadded_sample_alone(reference):
    sample = UNPADDED.get(reference.name, 0)
    batch, expected = reference.batch(sample), reference.expected(sample)
    model, compatible = reference.model(), reference.model(fairseq_compatible_padding=True)
    check_features(model, batch, expected)
    with torch.no_grad():
        output, other = model(**batch), compatible(**batch)
    assert_close(output.predictions, expected["pred"], "predictions")
    assert_close(output.loss, other.loss, "loss")
    if not mixes_samples(reference):
        assert_close(output.targets, expected["target"], "targets")


def test_default_padding_gives_the_same_for_an_unpadded_sample_beside_a_padded_one(reference):
    sample = UNPADDED.get(reference.name, 0)
    batch, expected = reference.batch(), reference.expected(sample)
    model = reference.model()
    check_features(model, batch, expected, slice(sample, sample + 1))
    with torch.no_grad():
        output = model(**batch)
    rows = torch.arange(len(batch["mask"]))[:, None, None].expand_as(output.mask)[output.mask] == sample
    assert_close(output.predictions[rows], expected["pred"], "predictions")
    if not mixes_samples(reference):
        assert_close(output.targets[rows], expected["target"], "targets")


def test_prediction_of_vision_is_the_output_of_the_encoder():
    reference = load_reference("d2v1_image_base")
    model = reference.model()
    assert [name for name, _ in model.named_parameters() if name.startswith("decoders.")] == []
    gradients = reference.scalars["grad_norm"]
    assert gradients["final_proj.weight"] is None and gradients["final_proj.bias"] is None
