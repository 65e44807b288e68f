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
from modeling_d2v.targets import (
    TargetMean,
    batch_norm,
    batch_std,
    group_norm,
    instance_norm,
    position_norm,
    sample_norm,
)


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


def test_norms_over_other_axes_are_those_of_torch():
    x = torch.randn(3, 7, 5) * 3 + 1
    expected = {
        group_norm: F.layer_norm(x, x.shape[1:]),
        position_norm: F.layer_norm(x.transpose(0, 1), (3, 5)).transpose(0, 1),
        sample_norm: F.instance_norm(x.permute(1, 2, 0)).permute(2, 0, 1),
    }
    for norm, wanted in expected.items():
        torch.testing.assert_close(norm(x, None), wanted, atol=1e-5, rtol=1e-5)
        everything = torch.ones(3, 7, dtype=torch.bool)
        torch.testing.assert_close(norm(x, everything), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", [group_norm, position_norm, sample_norm])
def test_norms_over_other_axes_ignore_padding(norm):
    x, real = torch.randn(3, 7, 5), torch.arange(7)[None] < torch.tensor([7, 4, 2])[:, None]
    changed = torch.where(real[..., None], x, 100.0)
    torch.testing.assert_close(norm(x, real)[real], norm(changed, real)[real])
    expected = norm(x[:1], None) if norm is group_norm else norm(x[:2, :4], real[:2, :4])
    rows = slice(0, 1) if norm is group_norm else slice(0, 2)
    if norm is not group_norm:
        changed = norm(x, real)[rows, 2:4]
        torch.testing.assert_close(changed, expected[:, 2:4], atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(norm(x, real)[rows], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("names", [["layer", "instance"], ["instance", "layer"], ["batch", "group", "layer"], []])
def test_several_norms_are_applied_in_order(names):
    config = tiny_config("text", text_config={"layer_target_norm": names, "mean_target_norm": names[::-1]})
    assert config.to_dict() == type(config)(**config.to_dict()).to_dict()
    targets = TargetMean(config.text_config, 1, None)
    targets.k, targets.first = 1, 0
    x = expected = torch.randn(2, 6, 4)
    targets(0, None, x)
    for name in names + names[::-1]:
        expected = TargetMean.NORMS[name](expected, None)
    torch.testing.assert_close(targets.result(), expected)


def test_feed_forward_targets_may_have_their_layer_scale():
    def targets(scaled):
        settings = {"scaled_targets": scaled, "layer_target_norm": None, "mean_target_norm": None}
        torch.manual_seed(0)
        model = make("2.0", "vision", layer_scale_init_value=0.5, vision_config=settings | {"average_top_k_layers": 1})
        local = model.data2vec.local_features(
            model.data2vec.modality_encoders["vision"], inputs := inputs_for("vision")["pixel_values"], None
        )
        return model.teacher_targets("vision", inputs, None, local), model.teacher.encoder.blocks[-1].layer_scale2

    plain, scale = targets(False)
    torch.testing.assert_close(targets(True)[0], plain * scale.detach())
    with pytest.raises(ValueError, match="layer_scale_init_value"):
        tiny_config("vision", vision_config={"scaled_targets": True})


def test_the_teacher_reads_features_without_dropout():
    model = make("1.0", "audio", audio_config={"feat_proj_dropout": 0.5}).train()
    values = inputs_for("audio")["input_values"]
    encoder = model.data2vec.modality_encoders["audio"]
    first, second = (model.data2vec.local_features(encoder, values, None) for _ in range(2))
    assert not torch.equal(first.features, second.features)
    one, other = (model.teacher_targets("audio", values, None, local) for local in (first, second))
    assert torch.equal(one, other)
