"""Targets: normalised layers, averaged, blind to padding."""

import pytest
import torch
from model_factory import (
    inputs_for,
    randomise,
    tiny_config,
    version_config,
)
from torch.nn import functional as F

from modeling_d2v import Data2VecForPreTraining
from modeling_d2v.targets import batch_norm, batch_std, instance_norm


def make(version: str, modality: str, **overrides) -> Data2VecForPreTraining:
    model = randomise(Data2VecForPreTraining(version_config(version, modality, **overrides)))
    with torch.no_grad():  # a teacher that equalled the student could hide that the wrong one is used
        for parameter in model.teacher.parameters():
            parameter.mul_(1.1)
    return model.eval()


def test_targets_of_the_top_k_layers_only():
    config = tiny_config("text", num_hidden_layers=3, text_config={"average_top_k_layers": 1})
    model = make("2.0", "text", num_hidden_layers=3)
    config.modality_config("text").check()
    kept = []
    inputs = inputs_for("text")["input_ids"]
    local = model.data2vec.local_features(model.data2vec.modality_encoders["text"], inputs, None)
    model.teacher.encode(
        model.data2vec.modality_encoders["text"], local, on_layer=lambda i, x, f: kept.append(instance_norm(f, None))
    )
    for k in (None, 1, 2):
        model.config.text_config.average_top_k_layers = k
        targets = model.teacher_targets("text", inputs, None, local)
        torch.testing.assert_close(targets, torch.stack(kept[-(k or 3) :]).mean(dim=0).detach())


@pytest.mark.parametrize("norm", [instance_norm, batch_norm])
def test_norms_ignore_padding(norm):
    x = torch.randn(3, 7, 5) * 3 + 1
    lengths = [7, 4, 2]
    real = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    normed = norm(x, real)
    if norm is instance_norm:
        for i, length in enumerate(lengths):
            expected = F.instance_norm(x[i : i + 1, :length].transpose(1, 2)).transpose(1, 2)[0]
            torch.testing.assert_close(normed[i, :length], expected, atol=1e-5, rtol=1e-5)
    else:
        expected = F.batch_norm(x[real], None, None, training=True)
        torch.testing.assert_close(normed[real], expected, atol=1e-5, rtol=1e-5)


def test_batch_std_of_no_and_one_row():
    assert batch_std(torch.zeros(0, 4)) == 0
    assert batch_std(torch.randn(1, 4)).item() == pytest.approx(1e-3)
