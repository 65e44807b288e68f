"""Conversion of sharded weights and optimizer states to whole ones and back: checkpoints do not depend on the engine.

FSDP2 keeps each parameter as a `DTensor` of which a process holds one slice. Other tensors are not changed, so that
one process and DistributedDataParallel use the same code. All processes must call gathering functions in the same
order.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor


def whole(value: Any) -> Any:
    """Return a sharded tensor as a whole one; anything else unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_slice(value: Any) -> Any:
    """Return this process's slice of a sharded tensor; anything else unchanged."""
    return value.to_local() if isinstance(value, DTensor) else value


def everywhere(value: Any) -> Any:
    """Return a sharded value as a replicated one that works with sharded ones; anything else unchanged."""
    if not isinstance(value, DTensor):
        return value
    return value.redistribute(placements=[Replicate()] * value.device_mesh.ndim)


def like(value: Any, target: Any) -> Any:
    """Return this process's slice of a whole tensor if `target` is sharded; else the value unchanged."""
    if not isinstance(target, DTensor) or not isinstance(value, Tensor) or value.shape != target.shape:
        return value
    value = value.to(target.device, target.dtype)
    # Every process has read the same file: nothing is sent.
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def model_state(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """Return the state dict with whole tensors; those that were sharded are on the CPU.

    Args:
        model: Any model.
        keep: Whether this process returns the gathered tensors; the others only help to gather them.
    """
    return _gather(model.state_dict(), keep)


def load_model_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load whole tensors.

    Raises:
        RuntimeError: Names or shapes differ.
    """
    present = model.state_dict()
    model.load_state_dict({name: like(value, present.get(name)) for name, value in state.items()})


def optimizer_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """Return the state dict of a torch optimizer with whole tensors, on the CPU those that were sharded.

    Args:
        optimizer: The optimizer; its parameters are numbered in the order of its groups.
        keep: As in `model_state`.
    """
    state = optimizer.state_dict()
    moments = {number: _gather(entry, keep) for number, entry in sorted(state["state"].items())}
    return {**state, "state": moments}


def _gather(tensors: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Gather tensors one after the other: at most one whole tensor is on the device at a time."""
    gathered = {}
    for name, value in tensors.items():
        sharded = isinstance(value, DTensor)
        tensor = whole(value.detach()) if sharded else value
        if keep or not sharded:
            gathered[name] = tensor.cpu() if sharded else tensor
    return gathered


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state of `optimizer_state`, under any engine and in any number of processes."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {number: {name: like(value, parameters[number]) for name, value in entry.items()}
               for number, entry in state["state"].items()}  # fmt: skip
    optimizer.load_state_dict({**state, "state": moments})


def whole_model(model: nn.Module, device: torch.device | str = "cpu", keep: bool = True) -> nn.Module | None:
    """Return the model itself, or an unsharded copy if it is sharded.

    Args:
        model: A pretraining model.
        device: Device of a copy.
        keep: Whether this process returns the gathered model; the others return None.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    state = model_state(model, keep)
    if not keep:
        return None
    copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict(state)
    return copied.to(device).train(model.training)
