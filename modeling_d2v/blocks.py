"""The transformer blocks that every modality shares.

Shapes: B rows, T tokens, D hidden size, H heads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_dropout import attention_with_dropout, drops_out_here
from .configuration_data2vec import Data2VecConfig
from .dropout import Dropout


# Called after each shared block with (number of the block, its output, its feed-forward part before the residual).
LayerCallback = Callable[[int, Tensor, Tensor], None]


class BlockSizes(NamedTuple):
    """Sizes of a block that differ from those of the shared ones."""

    hidden: int
    heads: int
    intermediate: int

    @classmethod
    def of(cls, config: Data2VecConfig) -> "BlockSizes":
        """Return the sizes of the shared blocks."""
        return cls(config.hidden_size, config.num_attention_heads, config.intermediate_size)


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Map query, key, value (B, H, T, D / H) to the output (B, T, H, D / H) and the weights (B, H, T, T)."""
    scores = torch.matmul(query * scaling, key.transpose(-2, -1))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class Data2VecAttention(nn.Module):
    """Multi-head self-attention through transformers' attention interface."""

    is_causal = False

    def __init__(self, config: Data2VecConfig, sizes: BlockSizes | None = None) -> None:
        super().__init__()
        size, self.num_heads, _ = sizes or BlockSizes.of(config)
        self.config = config
        self.scaling = (size // self.num_heads) ** -0.5
        self.qkv = nn.Linear(size, 3 * size)
        self.projection = nn.Linear(size, size)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D / H)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        if position_bias is not None:
            kwargs["position_bias"] = position_bias
        dropout = self.config.attention_dropout if self.training else 0.0
        if self.config._attn_implementation == "sdpa" and drops_out_here(query, dropout):
            out, weights = attention_with_dropout(query, key, value, attention_mask, dropout, self.scaling), None
        else:
            out, weights = attend(
                self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
            )
        return self.dropout(self.projection(out.reshape(batch, length, -1))), weights


class Data2VecMLP(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, config: Data2VecConfig, sizes: BlockSizes | None = None) -> None:
        super().__init__()
        size, _, intermediate = sizes or BlockSizes.of(config)
        self.fc1 = nn.Linear(size, intermediate)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = Dropout(config.activation_dropout)
        self.fc2 = nn.Linear(intermediate, size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))


class DropPath(nn.Module):
    """Stochastic depth: a branch is left out for a random part of the rows, the others are scaled up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class Data2VecBlock(GradientCheckpointingLayer):
    """Post-norm transformer block; returns its output, and its feed-forward part for the targets."""

    def __init__(self, config: Data2VecConfig, drop_path_rate: float = 0.0, sizes: BlockSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or BlockSizes.of(config)
        size, eps, scale = sizes.hidden, config.layer_norm_eps, config.layer_scale_init_value
        self.attention = Data2VecAttention(config, sizes)
        self.norm1 = nn.LayerNorm(size, eps=eps, elementwise_affine=config.norm_affine)
        self.mlp = Data2VecMLP(config, sizes)
        self.mlp_dropout = Dropout(config.mlp_dropout)
        self.norm2 = nn.LayerNorm(size, eps=eps, elementwise_affine=config.norm_affine)
        self.mlp_residual = config.mlp_residual
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.layer_scale1 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None
        self.layer_scale2 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None

    def _branch(self, x: Tensor, layer_scale: Tensor | None) -> Tensor:
        return self.drop_path(x if layer_scale is None else x * layer_scale)

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        attended, _ = self.attention(hidden_states, attention_mask, position_bias, **kwargs)
        x = self.norm1(hidden_states + self._branch(attended, self.layer_scale1))
        feed_forward = self.mlp(x)
        x = self.norm2(x + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2))
        return x, feed_forward


class Data2VecPreNormBlock(Data2VecBlock):
    """Transformer block with the norms before attention and feed-forward part."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        attended, _ = self.attention(self.norm1(hidden_states), attention_mask, position_bias, **kwargs)
        x = hidden_states + self._branch(attended, self.layer_scale1)
        feed_forward = self.mlp(self.norm2(x))
        residual = x if self.mlp_residual else feed_forward
        x = residual + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2)
        return x, feed_forward


def make_blocks(
    config: Data2VecConfig, depth: int, drop_path_rate: float, sizes: BlockSizes | None = None
) -> nn.ModuleList:
    """Return `depth` blocks whose stochastic depth rises linearly from 0 to `drop_path_rate`.

    Args:
        config: Order of norms, activation, dropouts.
        depth: Number of blocks.
        drop_path_rate: Rate of the last one.
        sizes: Default: those of the shared blocks.
    """
    block = Data2VecPreNormBlock if config.norm_first else Data2VecBlock
    return nn.ModuleList([block(config, drop_path_rate * i / max(depth - 1, 1), sizes) for i in range(depth)])


def run_blocks(
    blocks: nn.ModuleList,
    hidden_states: Tensor,
    attention: list[tuple[Any, Tensor | None]],
    layerdrop: float = 0.0,
    on_layer: LayerCallback | None = None,
    **kwargs: Any,
) -> Tensor:
    """Run a stack of blocks.

    The output of a dropped layer is computed but not used: distributed engines need the same graph in every process,
    and a gradient of every parameter.
    """
    for i, (block, (mask, bias)) in enumerate(zip(blocks, attention, strict=True)):
        x, feed_forward = block(hidden_states, mask, bias, **kwargs)
        if layerdrop and block.training:
            x = torch.where(torch.rand((), device=x.device) < layerdrop, hidden_states, x)
        hidden_states = x
        if on_layer is not None:
            on_layer(i, hidden_states, feed_forward)
    return hidden_states


class Data2VecEncoder(nn.Module):
    """The blocks that all modalities share."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.layerdrop = config.layerdrop
        self.blocks = make_blocks(config, config.num_hidden_layers, config.drop_path_rate)
        has_norm = config.norm_first and config.final_norm
        self.norm = nn.Identity()
        if has_norm:
            eps, affine = config.layer_norm_eps, config.norm_affine
            self.norm = nn.LayerNorm(config.hidden_size, eps=eps, elementwise_affine=affine)

    def forward(
        self,
        hidden_states: Tensor,
        attention: list[tuple[Any, Tensor | None]],
        on_layer: LayerCallback | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map hidden states (B, T, D) and one (mask, bias) pair per block to hidden states (B, T, D)."""
        return self.norm(run_blocks(self.blocks, hidden_states, attention, self.layerdrop, on_layer, **kwargs))
