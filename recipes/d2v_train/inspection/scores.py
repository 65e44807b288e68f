"""What relevance explains: one number per sample that an encoder computes, differentiable in its input.

Legend: B batch, D width, U hidden units of all shared blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2v_train.inspection.activations import feed_forward_outputs, mean_over_tokens, recorded_units, token_weights


class Score(Protocol):
    """One number per sample."""

    name: str

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the score (B,) of a batch."""


def _pooled(model: nn.Module, inputs: dict[str, Tensor], layer: int) -> Tensor:
    output = model(**inputs, output_hidden_states=True)
    return mean_over_tokens(output.hidden_states[layer], token_weights(model, inputs, output))


@dataclass
class CosineScore:
    """Cosine between the mean state of a sample and a direction, such as that of a concept.

    Attributes:
        direction: (D,).
        centre: (D,) subtracted from the state first, such as the mean of the modality; None for zero.
        layer: Of `hidden_states`.
        name: What the score is called in reports.
    """

    direction: np.ndarray
    centre: np.ndarray | None = None
    layer: int = -1
    name: str = "cosine to the concept"

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        states = _pooled(model, inputs, self.layer)
        if self.centre is not None:
            states = states - torch.as_tensor(self.centre).to(states)
        return F.cosine_similarity(states, torch.as_tensor(self.direction).to(states)[None])


@dataclass
class UnitScore:
    """Activation of a hidden unit, mean over the real tokens.

    Attributes:
        unit: Its number among U.
        name: What the score is called in reports.
    """

    unit: int
    name: str = "hidden unit"

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        width = feed_forward_outputs(model)[0].in_features
        with recorded_units(model) as record:
            weights = token_weights(model, inputs, model(**inputs))
        return mean_over_tokens(record[self.unit // width], weights)[:, self.unit % width]


@dataclass
class ProbeScore:
    """Logit of one class of a linear probe of the mean state.

    Attributes:
        weight: (D,) of the class.
        bias: Of the class.
        layer: Of `hidden_states`.
        name: What the score is called in reports.
    """

    weight: np.ndarray
    bias: float = 0.0
    layer: int = -1
    name: str = "logit of the probe"

    def __call__(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        states = _pooled(model, inputs, self.layer)
        return states @ torch.as_tensor(self.weight).to(states) + self.bias
