"""Errors for unknown arguments of a forward pass.

`**kwargs` are passed down to the attention by transformers. A misspelt name, such as `label`, would be passed down as
well, and the only sign of it would be a missing loss.
"""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from transformers.utils import TransformersKwargs


PASSED_ON = frozenset(TransformersKwargs.__annotations__) | {
    "return_dict",
    "use_cache",
    # What tokenizers, pipelines and adapters give to every model; models that cannot ignore one check it.
    "token_type_ids",
    "inputs_embeds",
    "interpolate_pos_encoding",
}
"""Names that are accepted although no signature has them."""


def known_arguments(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a `forward` with `**kwargs` to raise `TypeError` for names unknown to it and to transformers.

    Arguments that are None are accepted: callers pass everything that any model might take.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = [name for name, entry in inspect.signature(forward).parameters.items() if entry.kind in kinds][1:]
    known = PASSED_ON | set(own)

    @functools.wraps(forward)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in kwargs.items():
            if name not in known and value is not None:
                (nearest,) = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
                raise TypeError(f"{type(self).__name__} has no argument `{name}`; the nearest one is `{nearest}`.")
        return forward(self, *args, **kwargs)

    return checked
