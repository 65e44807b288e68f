"""The analytic count of a step's operations against what PyTorch counts while it computes."""

import pytest
import torch
from model_factory import MODALITIES, SPECTROGRAM, VERSIONS, inputs_for, padded_inputs, version_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from d2v_train.measuring.flops import StepFlops
from modeling_d2v import Data2VecForPreTraining


# PyTorch's formula for the gradients of a grouped convolution leaves the groups out: it counts too many.
UNGROUPED = {
    "text": {},
    "vision": {"decoder_groups": 1},
    "audio": {"decoder_groups": 1, "conv_pos_groups": 1},
    "arrays": {"decoder_groups": 1},
}
OTHERS = {
    "text": {"decoder_projection_layers": 1, "decoder_kernel_size": 4, "ema_scope": "all"},
    "vision": {"decoder_kernel_size": 4, "embed_dim": 24, "ema_scope": "blocks", "cls_loss_weight": 0.0},
    "audio": {"conv_pos_width": 8, "ema_scope": "all", "decoder_projection_layers": 2, "num_extra_tokens": 2},
}


@pytest.fixture(autouse=True)
def convolutions_are_counted(monkeypatch):
    """Gradients tap by tap are the same products, in place, which PyTorch's counter does not know."""
    monkeypatch.setattr("modeling_d2v.time_convolutions.TimeConv1d._trains_in_fp32", lambda self, x: False)


def both_counts(config, modality, inputs, gradients=True, frozen=False):
    """Own count by part, and PyTorch's; without fused attention, because that of CPUs is not in its table."""
    model = Data2VecForPreTraining._from_config(config, attn_implementation="eager").train()
    # PyTorch's counter follows modules by the gradients of their inputs, which may be parameters.
    if not gradients:
        model.requires_grad_(False)
    if frozen:
        model.data2vec.encoder.requires_grad_(False)
    with torch.no_grad():
        inputs = {**inputs, "mask": model(**inputs, step=0).mask}
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradients), sdpa_kernel(SDPBackend.MATH):
        loss = model(**inputs, step=0).loss
        if gradients:
            loss.backward()
    flops = StepFlops(config, frozen)
    return flops.parts(modality, flops.shape(modality, inputs), gradients), counter.get_total_flops()


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_step_is_counted_within_two_percent(version, modality, padded):
    inputs = padded_inputs(modality)[0] if padded and modality != "vision" else inputs_for(modality)
    settings = {**VERSIONS[version].get(f"{modality}_config", {}), **UNGROUPED[modality]}
    own, counted = both_counts(version_config(version, modality, **{f"{modality}_config": settings}), modality, inputs)
    # Operations on elements grow in steps of a group, which the count takes as even.
    tolerance = 0.03 if modality == "arrays" else 0.02
    assert sum(own.values()) == pytest.approx(counted, rel=tolerance)
    own, counted = both_counts(version_config(version, modality), modality, inputs, gradients=False)
    assert sum(own.values()) == pytest.approx(counted, rel=tolerance)


@pytest.mark.parametrize(
    ("modality", "others"),
    [
        *OTHERS.items(),
        ("vision", {"decoder_type": "transformer", "reconstruction_loss_weight": 0.5}),
        ("vision", {"decoder_type": "cross_attention"}),
    ],
)
def test_other_layouts_are_counted_within_two_percent(modality, others):
    settings = {**UNGROUPED[modality], **others}
    own, counted = both_counts(
        version_config("2.0", modality, **{f"{modality}_config": settings}), modality, inputs_for(modality)
    )
    assert sum(own.values()) == pytest.approx(counted, rel=0.02)


def test_tokens_that_are_not_predicted_cost_nothing():
    settings = {**UNGROUPED["vision"], "decoder_type": "cross_attention"}
    totals = []
    for share in (1.0, 0.4):
        config = version_config("2.0", "vision", vision_config={**settings, "decoder_query_share": share})
        own, counted = both_counts(config, "vision", inputs_for("vision", size=64))
        assert sum(own.values()) == pytest.approx(counted, rel=0.02)
        totals.append(own["decoder"])
    assert totals[1] < 0.7 * totals[0]


@pytest.mark.parametrize("padded", [False, True])
def test_another_front_end_is_counted_without_a_formula_of_its_own(padded):
    config = version_config("2.0", "audio", audio_config={**SPECTROGRAM, "decoder_groups": 1, "prenet_depth": 1})
    inputs = padded_inputs("audio")[0] if padded else inputs_for("audio")
    own, counted = both_counts(config, "audio", inputs)
    assert sum(own.values()) == pytest.approx(counted, rel=0.02)


def test_frozen_blocks_need_no_gradients_of_their_weights():
    settings = UNGROUPED["audio"] | {"prenet_depth": 1}
    config = version_config("2.0", "audio", audio_config=settings, num_hidden_layers=4)
    own, counted = both_counts(config, "audio", inputs_for("audio"), frozen=True)
    assert sum(own.values()) == pytest.approx(counted, rel=0.02)
    trained, more = both_counts(config, "audio", inputs_for("audio"))
    assert more > 1.05 * counted and trained["student"] > own["student"]


def test_longer_recordings_follow_from_those_that_were_counted():
    config = version_config("2.0", "audio", audio_config={"decoder_groups": 1, "conv_pos_groups": 1})
    flops = StepFlops(config)
    for seconds in (1.0, 3.1, 0.7):
        inputs = {"input_values": torch.randn(2, round(16_000 * seconds))}
        model = Data2VecForPreTraining._from_config(config, attn_implementation="eager").train()
        with torch.no_grad():
            inputs["mask"] = model(**inputs, step=0).mask
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**inputs, step=0)
        own = flops.parts("audio", flops.shape("audio", inputs), gradients=False)
        assert sum(own.values()) == pytest.approx(counter.get_total_flops(), rel=0.02)


LATENTS = {"front_end": "perceiver", "grouping": "global", "latent_heads": 2, "alibi": None, "fourier_bands": 1,
           "mask_sampler": "random", "decoder_type": "cross_attention", "decoder_num_attention_heads": 2,
           "group_size": 16, "latent_size": 32, "relative_position_bias": False}  # fmt: skip


@pytest.mark.parametrize("kind", [{}, {"anchors": False, "num_latents": 12}])
def test_latents_that_read_all_elements_are_counted(kind):
    config = version_config("2.0", "vision", vision_config={**LATENTS, **kind})
    own, counted = both_counts(config, "vision", inputs_for("vision", size=64))
    assert sum(own.values()) == pytest.approx(counted, rel=0.03)


def test_padding_is_work():
    config = version_config("2.0", "text")
    inputs = padded_inputs("text")[0]
    mask = torch.zeros(3, 3, 20, dtype=torch.bool)
    mask[:, :, :4] = True
    shape = StepFlops(config).shape("text", {**inputs, "mask": mask})
    assert (shape.tokens, shape.visible, shape.predicted) == (20, 16, 36)
