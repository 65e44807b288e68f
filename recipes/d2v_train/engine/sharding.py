"""Sharded weights and optimizer states as whole ones, and back: a checkpoint is the same under every engine.

FSDP2 keeps each parameter as a `DTensor` of which a process holds one slice. Everything here leaves other tensors as
they are, so that one process and DistributedDataParallel take the same way. What gathers must be called by all
processes in the same order.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor


def whole(value: Any) -> Any:
    """A tensor with the slices of all processes; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_slice(value: Any) -> Any:
    """What this process holds of a sharded tensor; anything else as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def everywhere(value: Any) -> Any:
    """A sharded value as one that every process holds, still to be used with sharded ones; else as it is."""
    if not isinstance(value, DTensor):
        return value
    return value.redistribute(placements=[Replicate()] * value.device_mesh.ndim)


def like(value: Any, target: Any) -> Any:
    """This process's slice of a whole tensor where `target` is sharded; else the value as it is."""
    if not isinstance(target, DTensor) or not isinstance(value, Tensor) or value.shape != target.shape:
        return value
    value = value.to(target.device, target.dtype)
    # Every process has read the same file: nothing is sent.
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def model_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """State dict with whole tensors, on the CPU those that were sharded.

    Args:
        model: any model.
        keep: whether this process needs what it helps to gather; the others get no sharded tensors.
    """
    return _gather(model.state_dict(), keep)


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads whole tensors.

    Raises:
        RuntimeError: names or shapes differ.
    """
    present = model.state_dict()
    model.load_state_dict({name: like(value, present.get(name)) for name, value in state.items()})


def optimizer_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """Return the state dict of a torch optimizer with whole tensors, on the CPU those that were sharded.

    Args:
        optimizer: its parameters are numbered in the order of its groups.
        keep: as in `model_state`.
    """
    state = optimizer.state_dict()
    moments = {number: _gather(entry, keep) for number, entry in sorted(state["state"].items())}
    return {**state, "state": moments}


def _gather(tensors: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Whole tensors, one after the other, so that no more than one lies on the device besides its slices."""
    gathered = {}
    for name, value in tensors.items():
        sharded = isinstance(value, DTensor)
        tensor = whole(value.detach()) if sharded else value
        if keep or not sharded:
            gathered[name] = tensor.cpu() if sharded else tensor
    return gathered


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer_state` gave, under any engine and in any number of processes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {number: {name: like(value, parameters[number]) for name, value in entry.items()}
               for number, entry in state["state"].items()}  # fmt: skip
    optimizer.load_state_dict({**state, "state": moments})


def whole_model(model: nn.Module, device: torch.device | str = "cpu", keep: bool = True) -> nn.Module | None:
    """The model itself, or where it is sharded an unsharded copy of it.

    Args:
        model: a pretraining model.
        device: where a copy is put.
        keep: whether this process needs what it helps to gather; the others get None.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = model_state(model, keep)
    if not keep:
        return None
    copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict(state)
    return copied.to(device).train(model.training)
