"""Steps whose loss or gradient is not finite: told where, skipped up to limits."""

import json

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from d2v_train.engine.engine import clip_gradient
from d2v_train.health.guard import TrainingStopped
from d2v_train.health.non_finite import NonFinitePolicy, where_not_finite
from d2v_train.options.sections import HealthOptions


def policy(note=lambda *args, **facts: None, **options):
    return NonFinitePolicy(HealthOptions(**options), note)


def test_limit_in_a_row():
    events = []
    judge = policy(max_bad_steps=3, note=lambda step, event, message, **facts: events.append((step, event)))
    for step in (1, 2):
        judge.bad(step)
    judge.good()
    for step in (4, 5):
        judge.bad(step, "the loss of vision is not finite")
    judge.bad(6, counts=False)  # an overflow by which fp16 finds its scale
    with pytest.raises(TrainingStopped, match="3 steps.*step 7.*optim.lr"):
        judge.bad(7, "the loss of vision is not finite")
    assert judge.skipped == 6 and judge.counted == 5
    assert events == [*((step, "skipped_step") for step in (1, 2, 4, 5, 6, 7)), (7, "non_finite")]


def test_limit_of_the_share_begins_after_a_hundred_steps():
    judge = policy(max_skipped_share=0.1)
    for step in range(1, 100, 2):
        judge.bad(step)
        judge.good()
    with pytest.raises(TrainingStopped, match="51 of 101"):
        judge.bad(101)
    rare = policy(max_skipped_share=0.1)
    for step in range(10, 1000, 10):
        rare.bad(step)
        rare.good()
    assert rare.skipped == 99


def test_run_may_stop_at_the_first():
    with pytest.raises(TrainingStopped, match="row"):
        policy(non_finite="stop").bad(1)


def test_counts_go_on_after_a_restart():
    judge = policy()
    judge.bad(7)
    judge.good()
    for step in (8, 9):
        judge.bad(step)
    judge.bad(10, counts=False)
    resumed = policy(max_bad_steps=3)
    resumed.load_state_dict(json.loads(json.dumps(judge.state_dict())))
    assert (resumed.skipped, resumed.in_a_row, resumed.counted) == (4, 2, 3)
    with pytest.raises(TrainingStopped, match="in 3 steps in a row"):
        resumed.bad(11)


@pytest.fixture
def accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradient_is_named_even_after_clipping(accelerator, limit, value):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 1))
    model(torch.randn(4, 2)).sum().backward()
    model[1].weight.grad[0, 1] = value
    norm = clip_gradient(accelerator, list(model.parameters()), limit)
    losses = {"audio": torch.tensor(1.0), "vision": torch.tensor(2.0)}
    assert not norm.isfinite()
    assert where_not_finite(losses, model.named_parameters(), lambda flags: flags) == (
        "the gradient of 1.weight (of 6 parameters) is not finite"
    )
    # Another process has a loss that is not finite.
    where = where_not_finite(losses, model.named_parameters(), lambda flags: flags + torch.tensor([0, 1]))
    assert where == "the loss of vision is not finite"


def test_finite_gradients_are_clipped_as_torch_does(accelerator):
    one, two = (nn.Linear(8, 8) for _ in range(2))
    two.load_state_dict(one.state_dict())
    inputs = torch.randn(3, 8)
    for model in (one, two):
        (100 * model(inputs)).square().sum().backward()
    norm = clip_gradient(accelerator, list(one.parameters()), 0.5)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(two.parameters(), 0.5))
    assert torch.equal(one.weight.grad, two.weight.grad) and torch.equal(one.bias.grad, two.bias.grad)
