"""Arguments of a forward pass: errors for unknown names, the main input first, tuples where a pass is traced.

`**kwargs` are passed down to the attention by transformers. A misspelt name, such as `label`, would be passed down as
well, and the only sign of it would be a missing loss.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import ModelOutput, TransformersKwargs

from .modalities import MODALITIES


PASSED_ON = frozenset(TransformersKwargs.__annotations__) | {
    "return_dict",
    "use_cache",
    # What tokenizers, pipelines and adapters give to every model; models that cannot ignore one check it.
    "token_type_ids",
    "inputs_embeds",
    "interpolate_pos_encoding",
    # Of patches, for the heads for images.
    "attention_mask",
}
"""Names that are accepted although no signature has them."""
INPUTS = tuple(modality.input_name for modality in MODALITIES.values())


def known_arguments(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a `forward` with `**kwargs`, as its outermost decorator.

    - Names unknown to it and to transformers raise `TypeError`. Arguments that are None are accepted: callers pass
      everything that any model might take.
    - Where it takes the inputs of all modalities and the model has one, arguments without a name are the main input
      and then the others in order: `model(images)`, `model(waveforms, attention_mask)`.
    - `torch.jit.trace` gets a tuple, the only output that it takes, unless `return_dict` is given.
    """
    own = _own_arguments(forward)
    known = PASSED_ON | set(own)
    shared = len(set(INPUTS) & set(own)) > 1

    def several(kwargs: dict[str, Any]) -> bool:
        """Return whether inputs of several modalities are given, of which `forward` says that they are too many."""
        return shared and sum(kwargs.get(name) is not None for name in INPUTS) > 1

    @functools.wraps(forward)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if args and shared and len(self.config.modalities) == 1:
            args, kwargs = (), _by_name(self, own, args, kwargs)
        for name, value in kwargs.items():
            if name not in known and value is not None and not several(kwargs):
                (nearest,) = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
                raise TypeError(f"{type(self).__name__} has no argument `{name}`; the nearest one is `{nearest}`.")
        output = forward(self, *args, **kwargs)
        if torch.jit.is_tracing() and "return_dict" not in kwargs and isinstance(output, ModelOutput):
            return output.to_tuple()
        return output

    return checked


def main_input_first(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the `forward` of a model of one modality, which has an argument for the input of each.

    Arguments without a name are the main input and then the others in order.
    """
    own = _own_arguments(forward)

    @functools.wraps(forward)
    def placed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, **(_by_name(self, own, args, kwargs) if args else kwargs))

    return placed


def _own_arguments(forward: Callable[..., Any]) -> list[str]:
    """Return the names of the arguments of a method, without the instance."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, entry in inspect.signature(forward).parameters.items() if entry.kind in kinds][1:]


def _by_name(model: Any, own: list[str], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model of one modality by name."""
    names = [model.main_input_name, *(name for name in own if name not in INPUTS)]
    if len(args) > len(names):
        raise TypeError(f"{type(model).__name__} takes {len(names)} arguments ({', '.join(names)}); got {len(args)}.")
    given = dict(zip(names, args, strict=False))
    for name in given:
        if name in kwargs:
            raise TypeError(f"{type(model).__name__} got `{name}` twice, by place and by name.")
    return {**given, **kwargs}
