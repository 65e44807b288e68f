"""The transformer blocks that every modality shares, but for the parts that each may have of its own.

Shapes: B rows, T tokens, D hidden size, H heads.
"""

from collections.abc import Callable, Sequence
from functools import partial
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


class PerModality(nn.ModuleDict):
    """One module for each modality, at a place where the modalities do not share one."""


def per_modality(make: Callable[[], nn.Module], modalities: Sequence[str] | None) -> nn.Module:
    """Return one module for each modality, or a single one where `modalities` is None."""
    return make() if modalities is None else PerModality({name: make() for name in modalities})


def of_modality(module: nn.Module, modality: str | None) -> nn.Module:
    """Return the module of a modality, which is the module itself where the modalities share it."""
    return module[modality] if isinstance(module, PerModality) else module


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
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm, self.k_norm = (
                nn.LayerNorm(size // self.num_heads, eps=config.layer_norm_eps) for _ in range(2)
            )

    def forward(
        self, hidden_states: Tensor, attention_mask: Any = None, position_bias: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        batch, length, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, length, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, T, D / H)
        if self.q_norm is not None:
            query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
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


def make_norm(config: Data2VecConfig, size: int) -> nn.LayerNorm:
    """Return a norm of the blocks over `size` channels."""
    return nn.LayerNorm(size, eps=config.layer_norm_eps, elementwise_affine=config.norm_affine)


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
    """Post-norm transformer block; returns its output, and its feed-forward part for the targets.

    Args:
        config: Order of norms, activation, dropouts.
        drop_path_rate: Rate of stochastic depth.
        sizes: Default: those of the shared blocks.
        modalities: Modalities of a shared block, which have norms and feed-forward parts of their own where the
            configuration says so. Default: the block serves one modality.
    """

    def __init__(
        self,
        config: Data2VecConfig,
        drop_path_rate: float = 0.0,
        sizes: BlockSizes | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        sizes = sizes or BlockSizes.of(config)
        size, scale = sizes.hidden, config.layer_scale_init_value
        own_norms = modalities if config.norms == "per_modality" else None
        own_mlps = modalities if config.feed_forward == "per_modality" else None
        self.attention = Data2VecAttention(config, sizes)
        self.norm1 = per_modality(partial(make_norm, config, size), own_norms)
        self.mlp = per_modality(partial(Data2VecMLP, config, sizes), own_mlps)
        self.mlp_dropout = Dropout(config.mlp_dropout)
        self.norm2 = per_modality(partial(make_norm, config, size), own_norms)
        self.mlp_residual = config.mlp_residual
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.layer_scale1 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None
        self.layer_scale2 = nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None

    def _branch(self, x: Tensor, layer_scale: Tensor | None) -> Tensor:
        return self.drop_path(x if layer_scale is None else x * layer_scale)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_bias: Tensor | None = None,
        modality: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        norm1, mlp, norm2 = (of_modality(module, modality) for module in (self.norm1, self.mlp, self.norm2))
        attended, _ = self.attention(hidden_states, attention_mask, position_bias, **kwargs)
        x = norm1(hidden_states + self._branch(attended, self.layer_scale1))
        feed_forward = mlp(x)
        x = norm2(x + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2))
        return x, feed_forward


class Data2VecPreNormBlock(Data2VecBlock):
    """Transformer block with the norms before attention and feed-forward part."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_bias: Tensor | None = None,
        modality: str | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        norm1, mlp, norm2 = (of_modality(module, modality) for module in (self.norm1, self.mlp, self.norm2))
        attended, _ = self.attention(norm1(hidden_states), attention_mask, position_bias, **kwargs)
        x = hidden_states + self._branch(attended, self.layer_scale1)
        feed_forward = mlp(norm2(x))
        residual = x if self.mlp_residual else feed_forward
        x = residual + self._branch(self.mlp_dropout(feed_forward), self.layer_scale2)
        return x, feed_forward


def make_blocks(
    config: Data2VecConfig,
    depth: int,
    drop_path_rate: float,
    sizes: BlockSizes | None = None,
    modalities: Sequence[str] | None = None,
) -> nn.ModuleList:
    """Return `depth` blocks whose stochastic depth rises linearly from 0 to `drop_path_rate`.

    Args:
        config: Order of norms, activation, dropouts.
        depth: Number of blocks.
        drop_path_rate: Rate of the last one.
        sizes: Default: those of the shared blocks.
        modalities: Modalities that share the blocks; None for blocks of one modality.
    """
    block = Data2VecPreNormBlock if config.norm_first else Data2VecBlock
    rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
    return nn.ModuleList([block(config, rate, sizes, modalities) for rate in rates])


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
    """The blocks that all modalities share, with parts for each of them where the configuration says so."""

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        self.layerdrop = config.layerdrop
        names = config.modalities
        self.blocks = make_blocks(config, config.num_hidden_layers, config.drop_path_rate, modalities=names)
        has_norm = config.norm_first and config.final_norm
        self.norm = nn.Identity()
        if has_norm:
            own_norms = names if config.norms == "per_modality" else None
            self.norm = per_modality(partial(make_norm, config, config.hidden_size), own_norms)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that every modality uses, by name."""
        own = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, PerModality)
            for parameter in module.parameters()
        }
        return {name: parameter for name, parameter in self.named_parameters() if id(parameter) not in own}

    def forward(
        self,
        hidden_states: Tensor,
        attention: list[tuple[Any, Tensor | None]],
        on_layer: LayerCallback | None = None,
        modality: str | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map hidden states (B, T, D) of a modality and one (mask, bias) pair per block to hidden states (B, T, D)."""
        hidden_states = run_blocks(
            self.blocks, hidden_states, attention, self.layerdrop, on_layer, modality=modality, **kwargs
        )
        return of_modality(self.norm, modality)(hidden_states)
