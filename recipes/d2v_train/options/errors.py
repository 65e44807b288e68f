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
        name: Name of the option, as the user writes it.
        value: Given value.
        valid: Valid values.

    Raises:
        OptionError: If it has another one.
    """
    if value not in valid:
        raise OptionError(f"{name} is {value!r}. It must be one of {', '.join(valid)}.")


def at_least(name: str, value: float | None, least: float) -> None:
    """Check that a number is finite and at least `least`; None, for an option that was not given, is valid.

    Args:
        name: Name of the option, as the user writes it.
        value: Given value.
        least: Smallest valid value.

    Raises:
        OptionError: If it is smaller, infinite or NaN.
    """
    if value is not None and not least <= value < math.inf:  # comparisons with NaN are false
        raise OptionError(f"{name} is {value}. It must be at least {least}.")


def share(name: str, value: float | None, below: bool = False) -> None:
    """Check that a number is from 0 to 1; None, for an option that was not given, is valid.

    Args:
        name: Name of the option, as the user writes it.
        value: Given value.
        below: Whether 1 is too much.

    Raises:
        OptionError: If it is out of range or NaN.
    """
    if value is not None and not (0 <= value < 1 or (value == 1 and not below)):
        raise OptionError(f"{name} is {value}. It must be at least 0 and {'below' if below else 'at most'} 1.")


@contextmanager
def options_explained(what: str) -> Iterator[None]:
    """Turn exceptions that libraries raise for wrong options into `OptionError`.

    Only for the setup of a run: during training the same exceptions are bugs.

    Args:
        what: What is set up, for the message.

    Raises:
        OptionError: Instead of `ValueError`, `OSError` and `StrictDataclassError`.
    """
    try:
        yield
    except OptionError:
        raise
    except (ValueError, OSError, StrictDataclassError) as error:
        # Some of these messages take several lines.
        sentence = " ".join(str(error).split()) or type(error).__name__
        raise OptionError(f"{what} cannot be set up: {sentence}") from error
