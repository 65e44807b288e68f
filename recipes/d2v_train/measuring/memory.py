"""How much memory a training step takes, from the model and a micro-batch.

Weights, teacher, gradients and AdamW's two moments are exact: 4 bytes an element each, divided among the processes
where an engine divides them. Activations are what autograd keeps until the backward pass, measured on a few samples
without computing them. What lives shorter (the teacher's pass, buffers, workspaces of libraries, fragments) is not in
the sum, nor is what the process held before, above all libraries and data. `docs/pretraining.md` compares it with
measured peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from transformers.modeling_layers import GradientCheckpointingLayer


FULL = 4
"""Bytes of an element in fp32, in which weights, norms and losses are kept in every precision."""


def state_bytes(model: nn.Module, mixed: bool = False, shards: int = 1) -> dict[str, int]:
    """Bytes of what stays from step to step, by part.

    Args:
        model: a pretraining model.
        mixed: whether autocast keeps copies of the weights in half precision during a step.
        shards: processes that an engine divides everything among; 1 where each holds all of it.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = sum(parameter.numel() for parameter in model.parameters()) - trained
    parts = {
        "weights": FULL * trained,
        "teacher": FULL * fixed,
        "gradients": FULL * trained,
        "optimizer": 2 * FULL * trained,
    }
    if mixed:
        parts["weights in half precision"] = 2 * trained
    return {name: count // shards for name, count in parts.items()}


def activation_bytes(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of a micro-batch.

    Two and three copies of the longest sample are measured and extended in a straight line, so that what all samples
    share counts once. A batch of one is measured as it is, because PyTorch takes other kernels for it.

    With gradient checkpointing the last block is measured as if it were not recomputed: when the backward pass gets
    to it, all of its activations are there beside the inputs of the others.

    Args:
        model: a pretraining model, on the device and under the engine that it is trained with.
        inputs: a collated micro-batch with its "mask" (B, M, T), on the same device.

    Call it under the autocast that the model is trained with.
    """
    count, longest = len(inputs["mask"]), _longest(inputs)
    few, more = min(count, 2), min(count, 3)
    with _attributes_kept(model):
        recomputed = [module for module in model.modules()
                      if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
                      and module.training]  # fmt: skip
        for block in recomputed[-1:]:
            block.gradient_checkpointing = False
        # Always two passes: under an engine that gathers weights, all processes must take the same number.
        base, larger = (
            _saved_bytes(model, {name: value[[longest] * rows] for name, value in inputs.items()})
            for rows in (few, more)
        )
    return base + (count - few) * (larger - base)


@contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what modules note in a pass, such as tables of positions, which have no values here."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.update(buffers)


def _longest(inputs: dict[str, Tensor]) -> int:
    """Return the sample with the most real tokens, and among these with the most visible ones."""
    visible = (~inputs["mask"]).sum(dim=2).amax(dim=1)
    real = inputs.get("attention_mask")
    return int((visible if real is None else real.sum(dim=1) * (visible.max() + 1) + visible).argmax())


def _saved_bytes(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """Return the bytes of the different storages that a forward pass saves, without parameters, buffers and inputs."""
    # Storages instead of tensors: these would hold the graph, which holds the hooks.
    saved: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> None:
        saved[_identity(tensor)] = tensor.untyped_storage()

    device = inputs["mask"].device
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda _: None)  # there is no backward pass
    torch.clear_autocast_cache()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), _ShapesOnly() as shapes, hooks:
        model(**inputs, step=0)
    torch.clear_autocast_cache()  # of copies of weights that have no values
    own = {_identity(tensor) for tensor in (*shapes.weights, *model.buffers(), *inputs.values())}
    return sum(storage.nbytes() for identity, storage in saved.items() if identity not in own)


def _identity(tensor: Tensor) -> int:
    """Return what tells the storage of a tensor from all others that exist at the time."""
    return tensor.untyped_storage()._cdata


class _ShapesOnly(TorchDispatchMode):
    """Skip the arithmetic of a forward pass: floating-point results get the right shape and storage, and no values.

    A large model then takes a second instead of minutes, and on a CPU hardly any memory, because the system gives out
    memory when it is first written to. Integers and masks are computed, since shapes depend on their values.

    Attributes:
        weights: the parameters that were used, and their copies in half precision, which `state_bytes` counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self._empty(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        self.weights += [value for value in args if isinstance(value, nn.Parameter)]
        if func is torch.ops.aten._to_copy.default and isinstance(args[0], nn.Parameter):
            self.weights.append(result)
        return result

    @staticmethod
    def _empty(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return empty tensors in place of the result; None for what must be computed."""
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if not given or func.namespace != "aten":
            return None
        if any(value.alias_info is not None for value in func._schema.returns):
            # A view, or the noise of dropout: drawn and scaled in place.
            drawn = {torch.Tag.pointwise, torch.Tag.nondeterministic_seeded} & set(func.tags)
            in_place = func._schema.name.endswith("_") and drawn and args[0].is_floating_point()
            return args[0] if in_place else None
        try:
            shapes = func(*tree_map(_on_meta, args), **tree_map(_on_meta, kwargs))
        except (NotImplementedError, RuntimeError):  # the shape depends on values
            return None
        if not all(value.is_floating_point() for value in tree_leaves(shapes) if isinstance(value, Tensor)):
            return None
        return tree_map_only(Tensor, partial(_empty_strided, device=given[0].device), shapes)


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    return _empty_strided(value, "meta") if isinstance(value, Tensor) else value


def _empty_strided(tensor: Tensor, device: torch.device | str) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def current_memory(device: torch.device) -> int | None:
    """Bytes held now: of the accelerator where there is one, else of the process; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return None


def free_memory(device: torch.device) -> int | None:
    """Bytes of the machine that a process on a CPU can still get; None elsewhere, or where nothing tells.

    Accelerators refuse what does not fit. On a CPU the system ends the process instead, without a word.
    """
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
