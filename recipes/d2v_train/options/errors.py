"""The error of a wrong option, and checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError


class OptionError(ValueError):
    """An option is unknown, has a wrong value, or contradicts another one."""


def choice(name: str, value: str, valid: Sequence[str]) -> None:
    """Check that an option has one of some values.

    Args:
        name: of the option, as the user writes it.
        value: that was given.
        valid: values that it may have.

    Raises:
        OptionError: it has another one.
    """
    if value not in valid:
        raise OptionError(f"{name} is {value!r}. It must be one of {', '.join(valid)}.")


def at_least(name: str, value: float | None, least: float) -> None:
    """Check that a number is finite and not below a bound; None, an option that was not given, passes.

    Args:
        name: of the option, as the user writes it.
        value: that was given.
        least: smallest value that it may have.

    Raises:
        OptionError: it is below, infinite or NaN.
    """
    if value is not None and not least <= value < math.inf:  # NaN is in no range
        raise OptionError(f"{name} is {value}. It must be at least {least}.")


@contextmanager
def options_explained(what: str) -> Iterator[None]:
    """Turn what wrong options make the libraries raise into `OptionError`.

    For the making of a run only: in its steps the same exceptions are errors of the program.

    Args:
        what: what is being made, for the message.

    Raises:
        OptionError: instead of `ValueError` (except itself), `OSError` and `StrictDataclassError`.
    """
    try:
        yield
    except OptionError:
        raise
    except (ValueError, OSError, StrictDataclassError) as error:
        # Some of these messages take several lines.
        sentence = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{what} cannot be set up: {sentence}") from error
