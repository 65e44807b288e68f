"""Checks of configurations: unknown keys, wrong types, and what cannot work, in sentences."""

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from modeling_d2v import Data2VecConfig


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("hiden_size", "hidden_size"), ("num_layers", "num_hidden_layers"), ("ema_decays", "ema_decay")],
)
def test_unknown_keys_name_the_nearest_valid_one(key, nearest):
    with pytest.raises(ValueError, match=f"`{key}`.*`{nearest}`"):
        Data2VecConfig(**{key: 3})


def test_unknown_keys_of_a_sub_configuration_name_the_nearest_valid_one():
    with pytest.raises(ValueError, match="AudioConfig.*`mask_probability`.*`mask_prob`"):
        Data2VecConfig(audio_config={"mask_probability": 0.5})


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        Data2VecConfig(hidden_size="wide")
