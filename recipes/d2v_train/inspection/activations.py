"""What an encoder computes for a list of items: hidden units of its feed-forward parts, states of its tokens.

Legend: B batch, E extra tokens, T tokens, D width, L blocks, F units of one feed-forward part, U = L * F units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2v_train.inputs.collate import Collator
from modeling_d2v.modalities import modality_of_input


@dataclass
class ConceptItems:
    """Items of one modality, each of which shows one concept.

    Attributes:
        modality: A key of `MODALITIES`.
        items: N inputs of the model without batch dimension, as a transform returns them.
        concepts: (N,) int64 numbers of the concepts. All modalities share their numbering.
        names: N names of the items, for example of files.
    """

    modality: str
    items: list[dict[str, Any]]
    concepts: np.ndarray
    names: list[str] | None = None

    def __post_init__(self):
        self.concepts = np.asarray(self.concepts, dtype=np.int64)
        if len(self.items) != len(self.concepts):
            raise ValueError(f"There are {len(self.items)} {self.modality} items but {len(self.concepts)} concepts.")

    def take(self, rows: Sequence[int] | np.ndarray) -> ConceptItems:
        """Return some of the items."""
        names = None if self.names is None else [self.names[row] for row in rows]
        return ConceptItems(self.modality, [self.items[row] for row in rows], self.concepts[np.asarray(rows)], names)

    def halves(self, seed: int = 0) -> tuple[ConceptItems, ConceptItems]:
        """Divide the items of every concept into two halves at random; of an odd number, the first one has more."""
        generator = np.random.default_rng(seed)
        first, second = [], []
        for concept in np.unique(self.concepts):
            rows = generator.permutation(np.flatnonzero(self.concepts == concept))
            first.extend(rows[: (len(rows) + 1) // 2])
            second.extend(rows[(len(rows) + 1) // 2 :])
        return self.take(np.sort(first).astype(int)), self.take(np.sort(second).astype(int))


def feed_forward_outputs(model: nn.Module) -> list[nn.Linear]:
    """Return the last linear layer of the feed-forward part of every shared block: its input are the hidden units.

    Args:
        model: `Data2VecModel`, or `PooledEncoder` around an encoder of transformers, whose layers are found by their
            shape.

    Raises:
        ValueError: If no feed-forward part is found.
    """
    blocks = getattr(getattr(model, "encoder", None), "blocks", None)
    if blocks is not None:
        return [block.mlp.fc2 for block in blocks]
    inner = getattr(model, "encoder", model)
    width = inner.config.hidden_size
    found = [
        module
        for module in inner.modules()
        if isinstance(module, nn.Linear) and module.in_features > module.out_features == width
    ]
    if not found:
        raise ValueError(
            f"No feed-forward part was found in {type(inner).__name__}: none of its linear layers leads from a larger "
            f"width to {width}, that of its states."
        )
    return found


@contextmanager
def recorded_units(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the hidden units (B, E + T, F) of every feed-forward part during one forward pass.

    Yields:
        A list that the pass fills, in the order of the blocks. Clear it before another pass.
    """
    record: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, args: record.append(args[0])) for layer in _layers(model)]
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def silenced_units(model: nn.Module, units: np.ndarray) -> Iterator[None]:
    """Set hidden units to zero while the context is open.

    Args:
        model: As for `feed_forward_outputs`.
        units: Numbers of the units among U: block * F + unit.
    """
    layers = _layers(model)
    width = layers[0].in_features
    units = np.asarray(units, dtype=np.int64)
    if len(units) and not (0 <= units.min() and units.max() < width * len(layers)):
        raise ValueError(f"Units go from 0 to {width * len(layers) - 1}; got {units.min()} to {units.max()}.")

    def silence(kept: Tensor):
        return lambda _, args: (args[0] * kept.to(args[0]),)

    hooks = []
    for number, layer in enumerate(layers):
        own = units[units // width == number] % width
        if len(own):
            kept = torch.ones(width)
            kept[torch.as_tensor(own)] = 0.0
            hooks.append(layer.register_forward_pre_hook(silence(kept)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _layers(model: nn.Module) -> list[nn.Linear]:
    layers = feed_forward_outputs(model)
    if len({layer.in_features for layer in layers}) > 1:
        raise ValueError("The feed-forward parts of this model differ in width; units of one width can be numbered.")
    return layers


def token_weights(model: nn.Module, inputs: dict[str, Tensor], output: Any) -> Tensor:
    """Return weights (B, T') of the tokens of `output.last_hidden_state`: 1 for real tokens, 0 for all others."""
    states = output.last_hidden_state
    weights = torch.ones(states.shape[:2], device=states.device)
    real = getattr(output, "attention_mask", None)
    if real is not None:
        weights = real.to(weights.dtype).clone()
    modality = next(filter(None, map(modality_of_input, inputs)))
    weights[:, : model.config.modality_config(modality).num_extra_tokens] = 0.0
    return weights


def mean_over_tokens(states: Tensor, weights: Tensor) -> Tensor:
    """Return the mean (B, D) of states (B, T', D) by weight; of longer states, the last tokens are those weighed."""
    states = states[:, -weights.shape[1] :]
    return (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1.0)


def batches(model: nn.Module, items: Sequence[dict[str, Any]], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Yield the inputs of the model for `batch_size` items at a time, in their order, on the device of the model."""
    collate = Collator(model.config, masks=False)
    device = next(model.parameters()).device
    for start in range(0, len(items), batch_size):
        yield {name: value.to(device) for name, value in collate(items[start : start + batch_size]).items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and back into its former mode on exit."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def unit_activations(model: nn.Module, items: ConceptItems, batch_size: int = 32) -> np.ndarray:
    """Return the hidden units of every item, (N, U) float32: after the activation function, mean over real tokens."""
    rows = []
    with evaluating(model), recorded_units(model) as record:
        for inputs in batches(model, items.items, batch_size):
            record.clear()
            weights = token_weights(model, inputs, model(**inputs))
            rows.append(torch.cat([mean_over_tokens(units, weights) for units in record], dim=1).float().cpu())
    return torch.cat(rows).numpy()


@torch.no_grad()
def pooled_states(model: nn.Module, items: ConceptItems, batch_size: int = 32, layer: int = -1) -> np.ndarray:
    """Return the mean state of the real tokens of every item, (N, D) float32, of `hidden_states[layer]`."""
    rows = []
    with evaluating(model):
        for inputs in batches(model, items.items, batch_size):
            output = model(**inputs, output_hidden_states=True)
            weights = token_weights(model, inputs, output)
            rows.append(mean_over_tokens(output.hidden_states[layer], weights).float().cpu())
    return torch.cat(rows).numpy()


@torch.no_grad()
def token_states(model: nn.Module, items: ConceptItems, batch_size: int = 32) -> Iterator[list[np.ndarray]]:
    """Yield, item by item, the states of the real tokens: one (T, D) float32 array for each of L + 1 layers.

    Layer 0 is the input of the shared blocks. Extra tokens are left out.
    """
    with evaluating(model):
        for inputs in batches(model, items.items, batch_size):
            output = model(**inputs, output_hidden_states=True)
            real = token_weights(model, inputs, output).bool()
            layers = [states[:, -real.shape[1] :].float().cpu() for states in output.hidden_states]
            for row, kept in enumerate(real.cpu()):
                yield [states[row][kept].numpy() for states in layers]
