"""Whether relevance can be trusted: deletion of relevant parts, and relevance of randomised models.

- *Deletion*: parts of the input are replaced by the baseline, the most relevant first. The score must fall faster than
  in random order.
- *Randomisation* (Adebayo et al. 2018, arXiv 1810.03292): the trained weights are replaced by new ones, block by block
  from the last to the front end. Relevance that stays the same explains the input, not what the model has learned.

Legend: P parts of an input.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from d2v_train.inspection.activations import evaluating
from d2v_train.inspection.relevance import DEFAULT_STEPS, baseline_of, input_of, integrated_gradients
from d2v_train.inspection.scores import Score
from modeling_d2v import Data2VecModel


FRACTIONS = tuple(round(0.1 * step, 1) for step in range(11))
DEFAULT_ORDERS = 10


@dataclass
class Deletion:
    """Scores while parts of an input are deleted.

    Attributes:
        fractions: Deleted share of the parts.
        by_relevance: Score at each of them, the most relevant parts first.
        at_random: The same for each random order.
    """

    by_relevance: list[float]
    at_random: list[list[float]]
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))

    @property
    def advantage(self) -> float:
        """Area between the mean of the random orders and the relevant one; above 0, relevance found what matters."""
        gap = np.mean(self.at_random, axis=0) - np.asarray(self.by_relevance)
        return float(np.trapezoid(gap, self.fractions))


def relevance_parts(model: nn.Module, inputs: dict[str, Tensor], frames: int = 40) -> np.ndarray:
    """Return the number of the part of every element of an input, in the shape of its relevance.

    Parts are the patches of a picture, `frames` equal pieces of a recording, and the tokens of a text.
    """
    modality, name = input_of(inputs)
    shape = inputs[name].shape[1:]
    if modality == "vision":
        size = getattr(model.config.modality_config(modality), "patch_size", None) or max(1, shape[-1] // 8)
        rows, columns = (np.arange(side) // size for side in shape[-2:])
        return rows[:, None] * (columns.max() + 1) + columns
    if inputs[name].is_floating_point():
        return np.arange(shape[0]) * min(frames, shape[0]) // shape[0]
    return np.arange(shape[0])


@torch.no_grad()
def deletion(
    model: nn.Module,
    inputs: dict[str, Tensor],
    score: Score,
    values: np.ndarray,
    orders: int = DEFAULT_ORDERS,
    seed: int = 0,
) -> Deletion:
    """Delete the parts of an input in the order of their relevance, and in random orders.

    Args:
        model, inputs, score: As for `integrated_gradients`.
        values: Relevance of the elements.
        orders: Number of random orders.
        seed: Seed of these.
    """
    _, name = input_of(inputs)
    parts = relevance_parts(model, inputs)
    number = parts.max() + 1
    of_part = np.bincount(parts.ravel(), np.asarray(values, dtype=np.float64).ravel(), number)
    generator = np.random.default_rng(seed)
    ranked = [np.argsort(-of_part, kind="stable"), *(generator.permutation(number) for _ in range(orders))]
    given, empty = inputs[name], baseline_of(model, inputs)
    curves = []
    with evaluating(model):
        for order in ranked:
            rank = np.empty(number, dtype=np.int64)
            rank[order] = np.arange(number)
            gone = [torch.as_tensor(rank[parts] < round(share * number)).to(given.device) for share in FRACTIONS]
            changed = torch.cat([torch.where(mask, empty, given) for mask in gone])
            rest = {key: value.expand(len(changed), -1) for key, value in inputs.items() if key != name}
            curves.append(score(model, {name: changed, **rest}).float().cpu().tolist())
    return Deletion(curves[0], curves[1:])


def randomised_models(model: nn.Module, fresh: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return copies of a model with more and more weights of another one, and what is new in each.

    Args:
        model: Trained encoder.
        fresh: The same with random weights.
    """
    if not isinstance(model, Data2VecModel):
        return [("all weights", fresh)]
    changed, found = copy.deepcopy(model), []
    for number in reversed(range(len(model.encoder.blocks))):
        changed.encoder.blocks[number].load_state_dict(fresh.encoder.blocks[number].state_dict())
        found.append((f"block {number + 1} and later", copy.deepcopy(changed)))
    return [*found, ("all weights", fresh)]


def randomisation(
    model: nn.Module,
    fresh: nn.Module,
    examples: Sequence[tuple[dict[str, Tensor], Score, np.ndarray]],
    steps: int = DEFAULT_STEPS,
) -> dict[str, float]:
    """Compare the relevance of a model with that of randomised ones.

    Args:
        model, fresh: As for `randomised_models`.
        examples: Inputs of one sample, what is explained, and its relevance in the trained model.
        steps: As for `integrated_gradients`.

    Returns:
        By what is random, the mean rank correlation (Spearman) of the relevance of the parts, over the examples.
    """
    found = {}
    for name, changed in randomised_models(model, fresh):
        values = []
        for inputs, score, trained in examples:
            parts = relevance_parts(model, inputs).ravel()
            other = integrated_gradients(changed, inputs, score, steps).values
            sums = [np.bincount(parts, np.asarray(each, np.float64).ravel()) for each in (trained, other)]
            # Relevance that is constant has no ranks: it tells nothing about the trained one.
            values.append(0.0 if min(np.ptp(each) for each in sums) == 0 else float(spearmanr(*sums).statistic))
        found[name] = float(np.mean(values))
    return found
