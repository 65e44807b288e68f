"""Work of foreign encoders, counted once and extrapolated."""

import pytest
import torch
from backbone_factory import KINDS, encoder, inputs_of, pretraining
from torch.utils.flop_counter import FlopCounterMode

from d2v_train.measuring.backbone_flops import BackboneFlops, step_flops
from modeling_d2v import BackboneForPreTraining


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_transformers_are_counted_too(kind):
    ungrouped = {"num_conv_pos_embedding_groups": 1} if KINDS[kind] == "audio" else {}
    # Gradients of the depthwise convolutions of conformers are counted too often by PyTorch, see above. And they
    # project their positions once a batch, not once a sample.
    gradients, close = (True, 0.02) if kind != "wav2vec2-conformer" else (False, 0.06)
    config = pretraining(encoder(kind, **ungrouped), num_masks=2).config
    config.encoder_options = {**config.encoder_options, "attn_implementation": "eager"}
    model = BackboneForPreTraining(config).train()
    inputs = inputs_of(kind)
    with torch.no_grad():
        inputs["mask"] = model(**inputs, step=0).mask
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradients):
        loss = model(**inputs, step=0).loss
        if gradients:
            loss.backward()
    flops, mask = BackboneFlops(config), inputs["mask"]
    own = flops.parts(*mask.shape, int(mask.sum()), gradients)
    assert sum(own.values()) == pytest.approx(counter.get_total_flops(), rel=close)
    if gradients:
        assert flops(KINDS[kind], inputs) == sum(own.values())


def test_longer_inputs_than_those_that_were_counted_follow():
    model = encoder("wav2vec2")
    flops = BackboneFlops(pretraining(model).config)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 400 + 320 * 299))
    assert flops.forward(300) == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("error", [TypeError, AttributeError, IndexError, ImportError])
def test_what_cannot_be_counted_costs_a_run_nothing(monkeypatch, caplog, error):
    def fail(*_, **__):
        raise error("of all things")

    assert step_flops(object()) is None
    config = pretraining("vit").config
    monkeypatch.setattr(type(config), "make_encoder", fail)
    assert step_flops(config) is None and "ViTModel" in caplog.text
