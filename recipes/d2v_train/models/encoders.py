"""Encoders for evaluation: of this package and of transformers, trained or random."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel

from modeling_d2v import BackboneForPreTraining, BackbonePreTrainingConfig, Data2VecConfig, Data2VecModel
from modeling_d2v.modeling_data2vec import Data2VecModelOutput, masked_mean


class PooledEncoder(nn.Module):
    """A plain encoder with the outputs of this package: its pooled output is the mean over real tokens.

    Its own pooler is not used, as the objective does not train it.

    Args:
        config: Configuration of the pretraining model.
        encoder: The plain encoder.
    """

    def __init__(self, config: BackbonePreTrainingConfig, encoder: nn.Module):
        super().__init__()
        self.config, self.encoder = config, encoder

    def forward(
        self, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **inputs: Tensor
    ) -> Data2VecModelOutput:
        """Return hidden states (B, T, D) without prefix tokens, and the mean (B, D) of the last ones."""
        (values,) = inputs.values()
        length, real, _ = self.config.tokens_of(values, attention_mask)
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        output = self.encoder(**inputs, output_hidden_states=output_hidden_states)
        hidden = output.last_hidden_state[:, -length:]
        if real is None:
            real = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        layers = [states[:, -length:] for states in output.hidden_states] if output_hidden_states else None
        return Data2VecModelOutput(hidden, masked_mean(hidden, real), layers, attention_mask=real)


def observed_encoder(model: nn.Module, weights: str = "student") -> nn.Module:
    """Return the encoder of either kind of pretraining model, with a pooled output of the same meaning."""
    encoder = model.trained_encoder(weights)
    return PooledEncoder(model.config, encoder) if isinstance(model, BackboneForPreTraining) else encoder


def load_encoder(source: str, config: Data2VecConfig | BackbonePreTrainingConfig) -> nn.Module:
    """Load an encoder from a folder or the Hub: of this package, or a plain one of transformers.

    Args:
        source: Folder or name on the Hub.
        config: Configuration of the encoder, or of the pretraining model of a plain one.
    """
    if isinstance(config, BackbonePreTrainingConfig):
        return PooledEncoder(config, AutoModel.from_pretrained(source, dtype=torch.float32))
    return Data2VecModel.from_pretrained(source, config=config)


def random_encoder(config: Data2VecConfig | BackbonePreTrainingConfig) -> nn.Module:
    """Return an encoder with random weights."""
    if isinstance(config, BackbonePreTrainingConfig):
        return PooledEncoder(config, config.make_encoder())
    return Data2VecModel(config)
