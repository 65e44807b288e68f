"""Sharded tensors become whole ones and come back, on one process that holds the only slice."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor

from d2v_train.engine.sharding import (
    everywhere,
    like,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    own_slice,
    whole,
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    if distributed.is_initialized():  # by a run of another test in this process
        distributed.destroy_process_group()
    store = distributed.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def sharded(module, mesh):
    def shard(name, part, mesh):
        for key, value in list(part.named_parameters(recurse=False)):
            part.register_parameter(key, nn.Parameter(distribute_tensor(value.data, mesh, [Shard(0)])))

    return distribute_module(module, mesh, shard)


def trained(module, batches):
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        output = batch
        for layer in module:
            output = output @ everywhere_local(layer.weight).T
        output.square().sum().backward()
        optimizer.step()
    return optimizer


def everywhere_local(weight):
    return everywhere(weight).to_local() if isinstance(weight, DTensor) else weight


def test_values_of_a_tensor_survive_every_form(mesh):
    plain = torch.randn(4, 3)
    value = distribute_tensor(plain, mesh, [Shard(0)])
    for form in (whole(value), own_slice(value), everywhere(value).to_local()):
        assert type(form) is torch.Tensor and torch.equal(form, plain)
    again = like(plain.double(), value)
    assert isinstance(again, DTensor) and again.dtype == value.dtype and again.placements == value.placements
    assert torch.equal(whole(again), plain)


@pytest.mark.parametrize("function", [whole, own_slice, everywhere])
def test_what_is_not_sharded_is_left_alone(function):
    for value in (torch.randn(2), 3, None, "name"):
        assert function(value) is value


def test_what_does_not_fit_a_slice_is_left_alone(mesh):
    target = distribute_tensor(torch.randn(4, 3), mesh, [Shard(0)])
    step = torch.tensor(3.0)
    assert like(step, target) is step and like(7, target) == 7 and like(step, torch.zeros(())) is step


def test_a_sharded_run_goes_on_unsharded_and_the_other_way_round(mesh):
    torch.manual_seed(3)
    batches = [torch.randn(5, 4) for _ in range(4)]
    plain = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False))
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    parts = sharded(nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 2, bias=False)), mesh)
    load_model_state(parts, start)
    assert all(isinstance(parameter, DTensor) for parameter in parts.parameters())
    optimizers = [trained(module, batches[:2]) for module in (plain, parts)]
    states = [
        (model_state(module), optimizer_state(optimizer))
        for module, optimizer in zip((plain, parts), optimizers, strict=True)
    ]
    for name, value in states[0][0].items():
        assert type(states[1][0][name]) is torch.Tensor and not torch.equal(value, start[name])
        torch.testing.assert_close(states[1][0][name], value)
    for number, entry in states[0][1]["state"].items():
        assert entry.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in entry.items():
            torch.testing.assert_close(states[1][1]["state"][number][name], value)
    # Each goes on with the state of the other.
    load_model_state(plain, states[1][0]), load_model_state(parts, states[0][0])
    for optimizer, (_, state) in zip(optimizers, reversed(states), strict=True):
        load_optimizer_state(optimizer, state)
    moments = optimizers[1].state[next(iter(parts.parameters()))]
    assert isinstance(moments["exp_avg"], DTensor)
    torch.testing.assert_close(whole(moments["exp_avg"]), states[0][1]["state"][0]["exp_avg"])


def test_a_process_that_keeps_nothing_gets_nothing_sharded(mesh):
    parts = sharded(nn.Sequential(nn.Linear(4, 2, bias=False)), mesh)
    parts.register_buffer("count", torch.tensor(3))
    assert model_state(parts, keep=False).keys() == {"count"}
    assert model_state(parts).keys() == {"0.weight", "count"}
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_model_state(parts, {"0.weight": torch.zeros(9, 9), "count": torch.tensor(1)})
