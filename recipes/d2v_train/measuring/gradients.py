"""Comparison of the modalities' gradients in the blocks that they share.

Two modalities help or disturb each other by the angle between their gradients at the same weights. A step of an
alternate run has the gradient of one of them only, and a gradient that is kept from an earlier step belongs to other
weights and costs memory in every step. So gradients are taken anew, at the present weights, on the batches of each
modality that the run takes next. Nothing of the run changes.

The gradient of one batch is mostly noise, which makes any two of them look perpendicular. Each modality therefore
gives two batches: the cosine of its own two gradients says how much of them is common, and the cosine of two
modalities, divided by the geometric mean of their own cosines, estimates that of the gradients without noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from d2v_train.batching.batches import MicroBatch, StepDataset
from d2v_train.support.processes import Processes
from modeling_d2v.targets import RunningNorm


BATCHES = 2
"""Batches of each modality, which differ in their samples and masks."""
NORM, COSINE = "shared_gradient_norm", "shared_gradient_cosine"
"""Names in the log, after "NAME/" of a modality; before "/NAME_NAME" of a pair."""


class GradientComparison:
    """Observer of the modalities' gradients in the shared blocks of the student.

    It keeps `BATCHES` gradients of each modality in memory while it compares them, in the precision of the weights.

    Args:
        every: Steps between two comparisons; 0 = never.
        steps: Micro-batches of this process.
        processes: Processes of the run.
        autocast: Returns the context of a forward pass.
        weights: Loss weight of each modality in a step. Default: 1.
        loss_scale: Returns the factor of the loss that keeps gradients of half precision from vanishing.

    Attributes:
        every: As the argument.
    """

    def __init__(
        self,
        every: int,
        steps: StepDataset,
        processes: Processes,
        autocast: Callable[[], AbstractContextManager],
        weights: Mapping[str, float] | None = None,
        loss_scale: Callable[[], float] = lambda: 1.0,
    ):
        self.every, self.steps, self.processes, self.autocast = every, steps, processes, autocast
        self.weights, self.loss_scale = dict(weights or {}), loss_scale

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Compare the gradients at the weights of a step. Every process must call it with the whole model.

        Args:
            model: Pretraining model, which is not changed.
            step: Finished steps.

        Returns:
            For each modality "NAME/shared_gradient_norm", of the mean over its batches, and
            "NAME/shared_gradient_cosine", between the gradients of its batches; for each pair
            "shared_gradient_cosine/NAME_NAME", the mean over pairs of batches. Values that are not finite are left
            out.
        """
        names = sorted(self.steps.plan.sizes)
        with undisturbed(model):
            gradients = [
                self._gradient(model, name, self.steps.plan.turns_before(step, name) + turn, step)
                for name in names
                for turn in range(BATCHES)
            ]
        products = _products(gradients).view(len(names), BATCHES, len(names), BATCHES).tolist()
        found = {}
        for place, name in enumerate(names):
            own = products[place]
            total = sum(own[i][place][j] for i in range(BATCHES) for j in range(BATCHES))
            found[f"{name}/{NORM}"] = max(total, 0.0) ** 0.5 / BATCHES
            found[f"{name}/{COSINE}"] = _mean_cosine(products, place, place)
        for one, other in itertools.combinations(range(len(names)), 2):
            found[f"{COSINE}/{names[one]}_{names[other]}"] = _mean_cosine(products, one, other)
        return {name: value for name, value in found.items() if abs(value) < float("inf")}

    def _gradient(self, model: nn.Module, modality: str, turn: int, step: int) -> list[Tensor]:
        """Return the gradient of the loss of one turn in the shared blocks, summed over all processes."""
        samples = self.steps.plan.turns[modality].keys(turn)
        batches = [self._on_device(batch) for batch in self.steps.micro_batches(modality, samples, step)]
        masks = [batch.inputs["mask"] for batch in batches]
        count = torch.stack([torch.stack([mask.sum(), mask.new_full((), mask.shape[:2].numel(), dtype=torch.int64)])
                             for mask in masks]).sum(dim=0)  # fmt: skip
        num_items, num_rows = self.processes.sum(count)
        parameters = list(model.student.encoder.shared_parameters().values())
        scale = self.loss_scale()
        total: list[Tensor] | None = None
        for batch in batches:
            with self.autocast():
                loss = model(**batch.inputs, step=step, num_items=num_items, num_rows=num_rows).loss
            parts = torch.autograd.grad(loss * (self.weights.get(modality, 1.0) * scale), parameters)
            total = list(parts) if total is None else [sum_ + part for sum_, part in zip(total, parts, strict=True)]
        return [self.processes.sum(part.float()) / scale for part in total or []]

    def _on_device(self, batch: MicroBatch) -> MicroBatch:
        device = self.processes.device
        return batch._replace(inputs={name: value.to(device) for name, value in batch.inputs.items()})


def _products(gradients: list[list[Tensor]]) -> Tensor:
    """Return the inner products (N, N) of N gradients, each given as a list of tensors."""
    size = len(gradients)
    total = torch.zeros(size, size, dtype=torch.float32)
    for tensors in zip(*gradients, strict=True):
        rows = torch.stack([tensor.flatten() for tensor in tensors])
        total += (rows @ rows.T).cpu()
    return total


def _mean_cosine(products: list, one: int, other: int) -> float:
    """Return the mean cosine of the gradients of two modalities over pairs of different batches."""
    cosines = []
    for i, j in itertools.product(range(BATCHES), repeat=2):
        if one == other and i >= j:
            continue
        norms = products[one][i][one][i] * products[other][j][other][j]
        cosines.append(products[one][i][other][j] / norms**0.5 if norms > 0 else float("nan"))
    return sum(cosines) / len(cosines)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Keep running statistics of targets from collecting, and restore the buffers of a model on exit."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    collecting = [module for module in model.modules() if isinstance(module, RunningNorm) and module.training]
    for module in collecting:
        module.eval()
    try:
        yield
    finally:
        for module in collecting:
            module.train()
        for name, buffer in model.named_buffers():
            if name in kept:
                buffer.copy_(kept[name])
