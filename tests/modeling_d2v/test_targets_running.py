"""Targets standardised by running statistics of their position and channel."""

import copy

import pytest
import torch
from backbone_factory import KINDS, encoder
from model_factory import inputs_for, randomise, version_config
from torch.nn import functional as F

from modeling_d2v import BackboneForPreTraining, Data2VecForPreTraining
from modeling_d2v.configuration_data2vec import Data2VecConfig
from modeling_d2v.targets import RunningNorm


NORMS = {"layer_target_norm": ["layer", "running"], "mean_target_norm": "running", "target_norm_bins": 6}


def norm(bins=5, width=3, decay=0.9):
    return RunningNorm(1, bins, width, decay)


def after(steps, **settings):
    """Statistics after steps, each a list of (x, token mask)."""
    running = norm(**settings)
    for batches in steps:
        for x, mask in batches:
            running(x, mask, 0)
        running.update()
    return running


def test_statistics_are_the_weighted_ones_of_all_tokens_seen():
    steps = [torch.randn(4, 5, 3) * (i + 1) + 100 + 7 * i for i in range(6)]
    running = after([[(x, None)] for x in steps])
    weights = torch.tensor([0.9**i for i in range(6)][::-1]).repeat_interleave(4).double()
    tokens = torch.cat(steps).double()  # (24, 5, 3)
    share = (weights / weights.sum())[:, None, None]
    mean = (share * tokens).sum(dim=0)
    torch.testing.assert_close(running.mean[0].double(), mean, rtol=1e-5, atol=1e-5)
    var = (share * (tokens - mean).square()).sum(dim=0)
    torch.testing.assert_close(running.var[0].double(), var, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(running.weight[0].double(), weights.sum().expand(5), rtol=1e-5, atol=0)


def test_what_all_samples_share_at_a_position_is_gone_and_content_is_not():
    common, steps = 10 * torch.randn(5, 3), 200
    running = after([[(common + torch.randn(32, 5, 3), None)] for _ in range(steps)], decay=0.99).eval()
    content = torch.randn(4000, 5, 3)
    out = running(common + content, None, 0)
    assert (out.mean(dim=0).square().mean() / out.var()).item() < 0.01
    torch.testing.assert_close(out.std(dim=0), torch.ones(5, 3), atol=0.1, rtol=0)
    assert torch.corrcoef(torch.stack([out.flatten(), content.flatten()]))[0, 1] > 0.99


def test_before_the_first_update_tokens_are_normalised_over_channels():
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(norm()(x, None, 0), F.layer_norm(x, (3,), eps=1e-5))


def test_statistics_do_not_depend_on_how_a_step_is_cut_or_padded():
    first, x = torch.randn(8, 5, 3), torch.randn(4, 5, 3)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()
    spoilt = torch.where(mask[..., None], x, torch.nan)
    alone = [(x[i : i + 1, mask[i]], None) for i in range(4)]
    one, other = after([[(first, None)], [(spoilt, mask)]]), after([[(first, None)], alone])
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])
    out = one.eval()(spoilt, mask, 0)
    for i in range(4):
        torch.testing.assert_close(out[i, mask[i]], one(x[i : i + 1, mask[i]], None, 0)[0])


def test_positions_beyond_the_last_bin_share_it():
    x = torch.randn(6, 8, 3)
    running = after([[(x, None)]])
    assert running.weight[0].tolist() == [6, 6, 6, 6, 24]
    torch.testing.assert_close(running.mean[0, 4], x[:, 4:].mean(dim=(0, 1)))


def test_positions_never_seen_take_the_statistics_of_all():
    x = 5 + 2 * torch.randn(500, 3, 3)
    running = after([[(x, None)]]).eval()
    out = running(5 + 2 * torch.randn(500, 5, 3), None, 0)
    assert out[:, 4].std().item() == pytest.approx(1, abs=0.1) and abs(out[:, 4].mean().item()) < 0.1


def test_statistics_change_in_training_only_and_not_by_skipped_or_broken_steps():
    running = after([[(torch.randn(4, 5, 3), None)]])
    before = copy.deepcopy(running.state_dict())
    running.eval()(torch.randn(4, 5, 3), None, 0)
    running.update()
    running.train()(torch.randn(4, 5, 3), None, 0)
    running.discard()
    running.update()
    assert all(torch.equal(value, before[name]) for name, value in running.state_dict().items())
    running(torch.full((1, 5, 3), torch.inf), None, 0)
    running.update()
    assert all(torch.equal(value, before[name]) for name, value in running.state_dict().items())


def model_of(version="2.0", modality="vision", **norms):
    config = version_config(version, modality).to_dict()
    config[f"{modality}_config"].update(NORMS | norms)
    return randomise(Data2VecForPreTraining(Data2VecConfig.from_dict(config))).train()


def take_steps(model, modality, steps):
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    losses = []
    for step in steps:
        inputs = inputs_for(modality, seed=step)
        loss = model(**inputs, step=step).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.update_teacher(step + 1)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("modality", ["text", "vision", "audio"])
def test_every_modality_and_version_learns_them_and_goes_on_where_it_was(version, modality):
    torch.manual_seed(0)
    model = model_of(version, modality)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    take_steps(model, modality, range(2))
    statistics = model.running_norm(modality)
    assert len(statistics.mean) == model.config.num_hidden_layers + 1
    assert (statistics.weight > 0).any() and statistics.weight.isfinite().all()
    resumed = copy.deepcopy(model)
    resumed.load_state_dict(model.state_dict())
    wanted = take_steps(model, modality, range(2, 4))
    assert take_steps(resumed, modality, range(2, 4)) == wanted
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())


def test_saved_and_loaded_statistics_are_equal_and_missing_ones_are_empty(tmp_path):
    model = model_of()
    take_steps(model, "vision", range(2))
    model.save_pretrained(tmp_path / "whole")
    loaded = Data2VecForPreTraining.from_pretrained(tmp_path / "whole")
    assert torch.equal(loaded.running_norm("vision").mean, model.running_norm("vision").mean)
    model.trained_encoder().save_pretrained(tmp_path / "encoder")
    new = Data2VecForPreTraining.from_pretrained(tmp_path / "encoder").running_norm("vision")
    assert new.weight.eq(0).all() and new.mean.eq(0).all() and new.var.eq(0).all()


def test_a_model_without_the_norm_has_no_statistics():
    model = model_of(layer_target_norm="layer", mean_target_norm=None)
    assert model.running_norm("vision") is None and not [n for n in model.state_dict() if "statistics" in n]


def test_a_new_teacher_has_new_statistics():
    model = model_of()
    take_steps(model, "vision", range(2))
    model.reset_teacher()
    assert model.running_norm("vision").weight.eq(0).all()


@pytest.mark.parametrize("kind", ["roberta", "vit", "wav2vec2"])
def test_encoders_of_transformers_have_them_too(kind):
    model = BackboneForPreTraining.from_backbone(
        encoder(kind), **NORMS, **({"mask_token_id": 4} if KINDS[kind] == "text" else {})
    ).train()
    assert model.running_norm(KINDS[kind]).weight.eq(0).all()
    take_steps(model, KINDS[kind], range(2))
    statistics = model.running_norm(KINDS[kind])
    assert len(statistics.mean) == model.config.average_top_k_layers + 1
    assert (statistics.weight > 0).any(dim=1).all() and statistics.var.isfinite().all()


def test_a_skipped_update_leaves_no_trace():
    model = model_of()
    take_steps(model, "vision", range(2))
    other = copy.deepcopy(model)
    model(**inputs_for("vision", seed=9), step=2)
    model.skip_update()
    assert take_steps(model, "vision", range(2, 4)) == take_steps(other, "vision", range(2, 4))
