"""The error about an option, and the checks of values that the programs share."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
    """Check that a number is finite and not below a bound; None, an option that was not given, is no number.

    Args:
        name: of the option, as the user writes it.
        value: that was given.
        least: smallest value that it may have.

    Raises:
        OptionError: it is below, infinite or NaN.
    """
    if value is not None and not least <= value < math.inf:  # NaN is in no range
        raise OptionError(f"{name} is {value}. It must be at least {least}.")
