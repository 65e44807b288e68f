"""Arguments that a forward pass does not know: errors instead of silence.

`**kwargs` take what transformers hands down to the attention. A misspelt name, such as `label`, would go the same way,
and a training without a loss would be all that tells of it.
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
    # What tokenizers, pipelines and adapters give to every model; those for which it would matter say so.
    "token_type_ids",
    "inputs_embeds",
    "interpolate_pos_encoding",
}
"""Names that are in no signature and go through `**kwargs`."""


def known_arguments(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a `forward` with `**kwargs`: a name that neither it nor transformers knows is a `TypeError`.

    What is None is let through: callers fill in all that any model might take.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = [name for name, entry in inspect.signature(forward).parameters.items() if entry.kind in kinds][1:]
    known = PASSED_ON | set(own)

    @functools.wraps(forward)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name, value in kwargs.items():
            if name not in known and value is not None:
                (nearest,) = difflib.get_close_matches(name, own, n=1, cutoff=0.0)
                raise TypeError(
                    f"{type(self).__name__} takes no argument `{name}`; the nearest one that it takes is `{nearest}`."
                )
        return forward(self, *args, **kwargs)

    return checked
