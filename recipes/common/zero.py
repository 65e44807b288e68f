"""The run's own optimizer over the parts of the weights that DeepSpeed's ZeRO (stages 1 and 2) gives each process.

ZeRO lays the weights of a parameter group end to end and gives every process a piece of equal size, onto which it
reduces the gradients. It would then step its piece as one tensor, which is wrong here twice over: a parameter that a
step leaves out would decay and move on with a gradient of zeros, and the weights would move before it is known
whether the gradient is finite. So ZeRO keeps what it does well, and the step is the run's: each parameter's part of
the piece is a tensor of its own, empty where this process has none of it, and AdamW takes these like whole ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ZeroOptimizer:
    """An optimizer over this process's parts of the parameters.

    Args:
        zero: DeepSpeed's optimizer around a torch one.
        parameters: the trained ones by name, in the order of the groups that the torch optimizer had before.

    Attributes:
        parts: this process's part of each parameter, flat, in the same order; it holds the gradient after a step's
            last backward pass, or None where no pass reached the parameter.
    """

    def __init__(self, zero: Any, parameters: dict[str, nn.Parameter]):
        self.zero, self.inner = zero, zero.optimizer
        self.names, self.parameters = list(parameters), list(parameters.values())
        self.parts = [self._part(parameter) for parameter in self.parameters]
        parts = iter(self.parts)
        for group, parameters_of_group in zip(self.inner.param_groups, zero.bit16_groups, strict=True):
            group["params"] = [next(parts) for _ in parameters_of_group]
        self._reached: set[int] = set()
        for number, parameter in enumerate(self.parameters):
            parameter.register_post_accumulate_grad_hook(lambda _, number=number: self._reached.add(number))

    @staticmethod
    def _part(parameter: nn.Parameter) -> nn.Parameter:
        """This process's part, which shares memory with ZeRO's copy of it."""
        place = parameter._hp_mapping
        return nn.Parameter(parameter.detach().new_empty(0) if place is None else place.hp_fragment.detach())

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the torch optimizer."""
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, those that were not used for a step too."""
        for part in self.parts:
            part.grad = None
        self.zero.zero_grad(set_to_none=True)
        for held in (self.zero.averaged_gradients, self.zero.all_grad_tensors):
            held.update(dict.fromkeys(held))
        self._reached.clear()

    def take_gradients(self) -> None:
        """Gives each part its gradient, after the last backward pass of a step, which reduces them.

        All processes take the same modalities in a step, so they agree about which parameters were reached.
        """
        for number in self._reached:
            part, parameter = self.parts[number], self.parameters[number]
            if part.numel():
                fragment = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
                part.grad = fragment.view(-1)
            else:
                part.grad = torch.zeros_like(part)

    def step(self) -> None:
        """Moves this process's parts, and gives every process the whole weights."""
        self.inner.step()
        self.zero.update_lp_params()

    def whole_state(self, keep: bool) -> dict[str, Any]:
        """State dict with whole tensors on the CPU, as one process has it. Every process must call it.

        Args:
            keep: whether this process needs what it helps to gather; the others get no tensors.
        """
        state = self.inner.state_dict()
        moments = {}
        for number, entry in sorted(state["state"].items()):
            whole = {name: value if name == "step" else self._gather(number, value) for name, value in entry.items()}
            moments[number] = {name: value.cpu() for name, value in whole.items()} if keep else {}
        return {**state, "state": moments}

    def _gather(self, number: int, part: Tensor) -> Tensor:
        """A whole tensor of which each process holds a part like that of a parameter."""
        parameter = self.parameters[number]
        whole = part.new_zeros(parameter.numel())
        self._own(number, whole).copy_(part)
        torch.distributed.all_reduce(whole)
        return whole.view(parameter.shape)

    def _own(self, number: int, whole: Tensor) -> Tensor:
        """This process's part of a flat whole tensor."""
        place = self.parameters[number]._hp_mapping
        if place is None:
            return whole[:0]
        return whole.narrow(0, place.lp_fragment_address.start, place.lp_fragment_address.numel)

    def load_whole_state(self, state: dict[str, Any]) -> None:
        """Loads what `whole_state` gave, or another engine wrote; the weights are in the model already."""
        self.zero.refresh_fp32_params()
        moments = {
            number: {name: value if name == "step" else self._own(number, value.reshape(-1)).clone()
                     for name, value in entry.items()}
            for number, entry in state["state"].items()
        }  # fmt: skip
        self.inner.load_state_dict({**state, "state": moments})
