"""Finding the parts of an encoder of transformers: its layers, their feed-forward parts, its local features.

Parts are found by structure and not by the name of the model. Every search can be replaced by the name of the part;
errors list the names.

Shapes: B samples, T tokens, D hidden size, h x w grid of patches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone_inputs import BACKBONE_INPUTS
from .modalities import MODALITIES


MASK_VECTORS = ("mask_token", "masked_spec_embed")


class BackboneError(ValueError):
    """Error for an encoder in which a part that the objective needs was not found."""


def find_layers(model: PreTrainedModel, name: str | None = None) -> str:
    """Return the name of the list of transformer layers.

    It is the longest list of equal modules with a linear layer of the model's width.
    Args:
        model: The encoder.
        name: To be used instead of the search.

    Raises:
        BackboneError: There is no such list.
    """
    lists = {key: module for key, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    size = getattr(model.config, "hidden_size", None)
    if size is None:
        raise BackboneError(f"{type(model).__name__} has no width (`hidden_size`): it is not a transformer encoder.")
    if name is None:
        fitting = {
            key: len(layers)
            for key, layers in lists.items()
            if len({type(layer) for layer in layers}) == 1 and all(_linears(layer, size) for layer in layers)
        }
        if fitting:
            return max(fitting, key=fitting.get)  # of equally long ones the first, which contains the others
    elif name in lists:
        return name
    found = f"no list `{name}`" if name is not None else f"no list of equal layers with a width of {size}"
    raise BackboneError(
        f"{type(model).__name__} has {found}. Name the list of its transformer layers as `layers`; its lists are "
        f"{_listed(lists)}."
    )


def find_feed_forward(model: PreTrainedModel, layers: str, name: str | None = None) -> str | None:
    """Return the name, inside a layer, of the linear layer that ends the feed-forward part.

    It is the last layer, before dropout and residual, that maps another width to the model's; if there is none, the
    last one outside the attention.

    Args:
        model: The encoder.
        layers: Name of its list of layers.
        name: To be used instead of the search.

    Returns:
        The name, or None if nothing fits.

    Raises:
        BackboneError: `name` is given and is not a part of the layers.
    """
    layer = model.get_submodule(layers)[0]
    if name is not None:
        parts = [key for key, module in layer.named_modules() if key and not list(module.children())]
        if name not in dict(layer.named_modules()):
            raise BackboneError(
                f"The layers `{layers}` of {type(model).__name__} have no part `{name}`; name the one that ends the "
                f"feed-forward part as `ffn_output`, of {_listed(parts)}."
            )
        return name
    size = model.config.hidden_size
    ending = _linears(layer, size)
    widening = [key for key, module in ending if module.in_features != size]
    outside = [key for key, _ in ending if not any("att" in part.lower() for part in key.split("."))]
    return next((names[-1] for names in (widening, outside) if names), None)


def find_mask_point(model: PreTrainedModel, modality: str, layers: str, name: str | None = None) -> str | None:
    """Return the name of the module where local features are masked; see `BACKBONE_INPUTS`. `None` for text.

    Raises:
        BackboneError: There is no such module.
    """
    if MODALITIES[modality].default.corrupts_input:
        return None
    source = BACKBONE_INPUTS[modality]
    found = source.mask_points(model, layers)
    if name is None and len(found) == 1:
        return found[0]
    if name is not None and name in dict(model.named_modules()):
        return name
    raise BackboneError(
        f"{type(model).__name__}: {source.mask_point_is} was not found{'' if name is None else f' as `{name}`'}. Name "
        f"it as `mask_point`; {_listed(found or [key for key, _ in model.named_children()])} might be it."
    )


def find_mask_vector(model: PreTrainedModel) -> str | None:
    """Return the name of the encoder's own parameter for masked features, None where it has none."""
    names = [name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] in MASK_VECTORS]
    return names[0] if names else None


def check_encoder(model: PreTrainedModel) -> None:
    """Refuse models that cannot predict masked tokens from both sides.

    Raises:
        BackboneError: The model is or has a decoder.
    """
    decoder = getattr(model.config, "is_decoder", False) or getattr(model.config, "is_encoder_decoder", False)
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    if decoder or causal:
        raise BackboneError(
            f"{type(model).__name__} is or has a decoder, in which a token sees only those before it. Masked "
            "prediction needs an encoder; pass the encoder part of a model that has one."
        )


@contextmanager
def watched_layers(
    model: PreTrainedModel, layers: str, ffn_output: str | None, on_layer: Callable[[Tensor, Tensor | None], None]
) -> Iterator[None]:
    """Call `on_layer(output, feed-forward output or None)` after each layer that runs inside the `with` block.

    A shared layer counts each time it runs.
    """
    feed_forward: list[Tensor] = []
    handles = []

    def after_layer(module: nn.Module, inputs: Any, output: Any) -> None:
        on_layer(output[0] if isinstance(output, tuple) else output, feed_forward.pop() if feed_forward else None)
        feed_forward.clear()

    try:
        for layer in model.get_submodule(layers):
            handles.append(layer.register_forward_hook(after_layer))
            if ffn_output is not None:
                part = layer.get_submodule(ffn_output)
                handles.append(part.register_forward_hook(lambda module, inputs, output: feed_forward.append(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_features(
    model: PreTrainedModel, modality: str, point: str, replace: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Replace the local features (B, T, D) at the mask point by `replace(features)` inside the `with` block."""
    handle = BACKBONE_INPUTS[modality].on_features(model.get_submodule(point), replace)
    try:
        yield
    finally:
        handle.remove()


def _linears(layer: nn.Module, size: int) -> list[tuple[str, nn.Linear]]:
    """Return the linear layers inside a layer whose output has the model's width, in order of registration."""
    return [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == size
    ]


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


@torch.no_grad()
def load_plain(model: PreTrainedModel, state: dict[str, Tensor]) -> PreTrainedModel:
    """Load a complete state dict into a model of the same structure.

    Raises:
        BackboneError: Names or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BackboneError(
            f"{type(model).__name__} cannot be rebuilt from its configuration alone: {' '.join(str(error).split())}"
        ) from error
    return model
