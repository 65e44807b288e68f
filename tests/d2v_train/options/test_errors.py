"""Errors of options name the option, its value and what it may be."""

import pytest

from d2v_train.options.errors import OptionError, at_least


@pytest.mark.parametrize("value", [0.5, -1, float("inf"), float("nan")])
def test_numbers_below_their_bound_or_not_finite_are_refused(value):
    at_least("--few", 1, 1)
    at_least("--few", None, 1)
    with pytest.raises(OptionError, match=f"^--few is {value}. It must be at least 1.$"):
        at_least("--few", value, 1)
