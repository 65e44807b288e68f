"""Which part of an input a score depends on: integrated gradients and attention roll-out.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) come from captum, in the extra `analysis`. They are
signed and complete: their sum is the score of the input minus that of the baseline: a picture of the mean colour of
the data, noise of the loudness of the recording, or a text of mask tokens. Silence is no baseline for recordings:
encoders normalise loudness away, so that the score would change all at once beside silence, where no integral finds
it. Attention roll-out (Abnar and Zuidema 2020, arXiv 2005.00928) follows the attention weights from the mean of the
last states back to the tokens. It is cheap and knows no score; how much attention tells about relevance is disputed,
so it is shown beside integrated gradients and never instead of them.

Legend: T tokens, C channels, S samples of a waveform.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from d2v_train.inspection.activations import evaluating
from d2v_train.inspection.scores import Score
from d2v_train.support.extras import need
from modeling_d2v import Data2VecModel
from modeling_d2v.blocks import Data2VecAttention
from modeling_d2v.modalities import modality_of_input


DEFAULT_STEPS = 32
NOISE_BASELINES = 3
INTERPOLATED_BATCH = 16
"""Interpolated inputs of one forward and backward pass."""


@dataclass
class Relevance:
    """Relevance of one input.

    Attributes:
        values: Signed relevance, of a picture (height, width), of a recording (S,), of a text (T,).
        score: Score of the input.
        baseline: Score of the baseline.
        gap: Sum of the values minus (score - baseline); 0 if the integral is exact.
    """

    values: np.ndarray
    score: float
    baseline: float
    gap: float


def input_of(inputs: dict[str, Tensor]) -> tuple[str, str]:
    """Return the modality of the inputs of a model, and the name of the argument that holds it."""
    return next((modality, name) for name in inputs if (modality := modality_of_input(name)) is not None)


def baseline_of(model: nn.Module, inputs: dict[str, Tensor], seed: int = 0) -> Tensor:
    """Return an input without content: see the top of this module. Padding stays as it is.

    Args:
        model: Encoder, whose configuration names the mask token.
        inputs: Its arguments.
        seed: Seed of the noise.
    """
    modality, name = input_of(inputs)
    values = inputs[name]
    if not values.is_floating_point():
        settings = model.config.modality_config(modality)
        baseline = torch.full_like(values, settings.mask_token_id)
        return torch.where(values == settings.pad_token_id, values, baseline)
    if modality == "vision":
        return torch.zeros_like(values)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)).to(values)
    baseline = noise * values.std(dim=1, keepdim=True)
    real = inputs.get("attention_mask")
    return baseline if real is None else torch.where(real.bool(), baseline, values)


def integrated_gradients(
    model: nn.Module, inputs: dict[str, Tensor], score: Score, steps: int = DEFAULT_STEPS, draws: int = NOISE_BASELINES
) -> Relevance:
    """Return the integrated gradients of a score for one input.

    Args:
        model: Encoder, of this package or wrapped in `PooledEncoder`.
        inputs: Its arguments for one sample.
        score: What is explained.
        steps: Points of the integral (Gauss-Legendre).
        draws: Baselines of noise that recordings are averaged over.

    Raises:
        MissingDependencyError: If captum is not installed.
        ValueError: If there are several samples.
    """
    attribution = need("captum.attr", "analysis")
    modality, name = input_of(inputs)
    values = inputs[name]
    if len(values) != 1:
        raise ValueError(f"Relevance is computed for one sample at a time; got {len(values)}.")
    baselines = [baseline_of(model, inputs, seed) for seed in range(draws if modality == "audio" else 1)]
    rest = {key: value for key, value in inputs.items() if key != name}

    def scored(given: Tensor) -> Tensor:
        repeated = {key: value.expand(len(given), *value.shape[1:]) for key, value in rest.items()}
        return score(model, {name: given, **repeated})

    if values.is_floating_point():
        method = attribution.IntegratedGradients(scored)
    else:
        method = attribution.LayerIntegratedGradients(scored, token_table(model, modality))
    with evaluating(model), whole_gradients(model), torch.enable_grad():
        found = [
            method.attribute(values, baseline, n_steps=steps, internal_batch_size=INTERPOLATED_BATCH).detach()[0]
            for baseline in baselines
        ]
        with torch.no_grad():
            at_input = float(scored(values))
            at_baseline = float(torch.stack([scored(baseline) for baseline in baselines]).mean())
    mean = torch.stack(found).double().mean(dim=0)
    if modality == "vision":
        mean = mean.sum(dim=0)  # channels
    elif not values.is_floating_point():
        mean = mean.sum(dim=-1)  # width of the embeddings
    relevance = mean.float().cpu().numpy()
    return Relevance(relevance, at_input, at_baseline, float(mean.sum()) - (at_input - at_baseline))


def token_table(model: nn.Module, modality: str) -> nn.Module:
    """Return the layer that reads token ids."""
    if isinstance(model, Data2VecModel):
        return model.modality_encoders[modality].local_encoder.first_layer
    return model.encoder.get_input_embeddings()


@contextmanager
def whole_gradients(model: nn.Module) -> Iterator[None]:
    """Switch off the factors by which training scales the gradients of front ends down, some to zero."""
    changed = []
    for module in model.modules():
        for owner in (module, *vars(module).values()):
            for field in ("local_grad_scale", "grad_scale"):
                value = vars(owner).get(field) if hasattr(owner, "__dict__") else None
                if isinstance(value, float | int) and not isinstance(value, bool) and value != 1:
                    changed.append((owner, field, value))
                    setattr(owner, field, 1.0)
    try:
        yield
    finally:
        for owner, field, value in changed:
            setattr(owner, field, value)


@torch.no_grad()
def attention_maps(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Return the attention weights (B, heads, T', T') of all blocks that tokens pass, those of a prenet first."""
    inner = model if isinstance(model, Data2VecModel) else model.encoder
    before = inner.config._attn_implementation
    with evaluating(model):
        inner.set_attn_implementation("eager")
        try:
            if not isinstance(model, Data2VecModel):
                return list(inner(**inputs, output_attentions=True).attentions)
            maps: list[Tensor] = []
            hooks = [
                module.register_forward_hook(lambda _, args, output: maps.append(output[1]))
                for module in model.modules()
                if isinstance(module, Data2VecAttention)
            ]
            try:
                model(**inputs)
            finally:
                for hook in hooks:
                    hook.remove()
            return maps
        finally:
            inner.set_attn_implementation(before)


def attention_rollout(model: nn.Module, inputs: dict[str, Tensor], extra: int | None = None) -> np.ndarray:
    """Return how much attention the mean of the last states pays to every token, (T,), with sum 1.

    The weights of a block are averaged over heads, and half of each token is its residual connection.

    Args:
        model: As for `integrated_gradients`.
        inputs: Arguments of the model for one sample without padding.
        extra: Tokens before those of the input; None for those of the configuration.
    """
    modality, _ = input_of(inputs)
    flow = None
    for weights in attention_maps(model, inputs):
        mean = weights.float().mean(dim=1)[0]
        mean = 0.5 * mean / mean.sum(dim=-1, keepdim=True) + 0.5 * torch.eye(mean.shape[0], device=mean.device)
        flow = mean if flow is None else mean @ flow
    if extra is None:
        if isinstance(model, Data2VecModel):
            extra = model.config.modality_config(modality).num_extra_tokens
        else:
            extra = flow.shape[0] - model(**inputs).last_hidden_state.shape[1]
    paid = flow[extra:, extra:].mean(dim=0)
    return (paid / paid.sum()).cpu().numpy()
