"""Speaker vectors: pooled over whole windows, with a margin."""

import pytest
import torch
from audio_factory import make
from model_factory import inputs_for
from torch.nn import functional as F


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
    with pytest.raises(ValueError, match="`labels`.*3.*0.*2"):
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
