"""Options of the fine-tuning program for arrays: their ranges, and what they override."""

import pytest

from d2v_train.finetuning.arrays.arguments import ArrayDataArguments, ArrayModelArguments
from d2v_train.options.errors import OptionError


def test_regularisation_overrides_only_what_is_given():
    given = ArrayModelArguments(config_name="any", from_scratch=True, hidden_dropout=0.2, classifier_dropout=0.3)
    fields = given.fields()
    assert fields["hidden_dropout"] == fields["mlp_dropout"] == 0.2 and fields["attention_dropout"] is None
    assert fields["arrays_config"] == {"classifier_dropout": 0.3}


@pytest.mark.parametrize("name", ["hidden_dropout", "attention_dropout", "layerdrop", "classifier_dropout"])
@pytest.mark.parametrize("value", [1.0, -0.1])
def test_shares_are_below_one(name, value):
    with pytest.raises(OptionError, match=f"--{name}"):
        ArrayModelArguments(config_name="any", from_scratch=True, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("crop_length", [0]), ("crop_length", [8, -1]), ("jitter", -0.1), ("scaling", 11.0)]
)
def test_transforms_are_within_their_ranges(name, value):
    with pytest.raises(OptionError, match=f"--{name}"):
        ArrayDataArguments(dataset_name="builtin", **{name: value})


def test_no_validation_data_is_held_out_of_chosen_groups():
    assert ArrayDataArguments(dataset_name="builtin").may_hold_out
    assert not ArrayDataArguments(dataset_name="builtin", only_groups=["ann"]).may_hold_out
