"""The log of a run, and the diagnostics in it."""

import json

import pytest
import torch

from recipes.common.diagnostics import explained_by_position, explained_by_prediction
from recipes.common.runlog import MetricsWindow, RunLog, read_log


def test_window_averages_by_weight_and_survives_a_checkpoint():
    window = MetricsWindow()
    window.add("loss", torch.tensor(1.0))
    window.add("loss", 0.5, 0)  # a second micro-batch of the same step
    copy = MetricsWindow()
    copy.restore(json.loads(json.dumps(window.state())))
    for each in (window, copy):
        each.add("loss", 2.5)
        assert each.means() == {"loss": 2.0}


def test_window_sums_over_processes():
    window = MetricsWindow()
    window.add("loss", 3.0)
    assert window.means(lambda sums: sums + torch.tensor([[1.0], [1.0]])) == {"loss": 2.0}


def test_log_drops_what_lies_after_the_resumed_step_and_a_broken_line(tmp_path):
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    for step in (1, 2, 3):
        log.write({"step": step})
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3]
    RunLog(path, step=2).write({"step": 3, "again": True})
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def masked_targets(dense, mask):
    return dense[:, None].expand(-1, mask.shape[1], -1, -1)[mask]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_position_share_is_found_without_bias(share):
    samples, masks, tokens, width = 4, 3, 400, 8
    common = torch.randn(tokens, width) * share**0.5
    dense = common + torch.randn(samples, tokens, width) * (1 - share) ** 0.5
    mask = torch.rand(samples, masks, tokens) < 0.5
    assert explained_by_position(masked_targets(dense, mask), mask) == pytest.approx(share, abs=0.05)


def test_position_share_of_a_single_sample_is_zero():
    mask = torch.ones(1, 2, 5, dtype=torch.bool)
    assert explained_by_position(torch.randn(10, 3), mask) == 0


def test_prediction_share():
    targets = torch.randn(1000, 4)
    assert explained_by_prediction(targets, targets) == 1
    assert explained_by_prediction(targets.mean(dim=0).expand_as(targets), targets) == pytest.approx(0, abs=1e-6)
