"""Arguments of a forward pass: what nobody knows is an error that names the nearest."""

import pytest

from modeling_d2v.arguments import known_arguments


class Model:
    @known_arguments
    def forward(self, input_ids, *, labels=None, **kwargs):
        """Documented."""
        return input_ids, labels, kwargs


def test_own_names_and_those_of_transformers_pass():
    assert Model().forward(1, labels=2) == (1, 2, {})
    assert Model().forward(1, output_attentions=True, return_dict=True)[2] == {
        "output_attentions": True,
        "return_dict": True,
    }
    assert Model.forward.__name__ == "forward" and Model.forward.__doc__ == "Documented."


def test_an_unknown_name_is_an_error_unless_it_is_none():
    with pytest.raises(TypeError, match="Model has no argument `label`.*`labels`"):
        Model().forward(1, label=2)
    assert Model().forward(1, label=None) == (1, None, {"label": None})


def test_the_instance_is_no_argument():
    with pytest.raises(TypeError, match="`selfs`.*`(input_ids|labels)`"):
        Model().forward(1, selfs=3)
