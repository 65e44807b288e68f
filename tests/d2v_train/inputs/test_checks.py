"""Ranges of options: a number is both ends, and what is out of range is named."""

import pytest

from d2v_train.inputs.checks import _range


@pytest.mark.parametrize(("value", "expected"), [(2, (2.0, 2.0)), ([1, 2.5], (1.0, 2.5)), ((3, 3), (3.0, 3.0))])
def test_a_number_or_two_ascending_ones(value, expected):
    assert _range("crop", value, 0, float("inf")) == expected


@pytest.mark.parametrize("value", [0, -1, 3.5, [2, 1], [1, 2, 3], [], True, "2", [1, "2"], float("nan"), None])
def test_anything_else_is_named_with_its_limits(value):
    with pytest.raises(ValueError, match="crop.*above 0 and up to 3"):
        _range("crop", value, 0, 3)
