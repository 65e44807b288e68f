"""Configuration of arrays."""

import pytest
from model_factory import tiny_config

from modeling_d2v import Data2VecArrayConfig, Data2VecConfig


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"num_dims": 4}, "`num_dims` is 4; it must be in"),
        ({"num_channels": 0}, "`num_channels` is 0; it must be at least 1"),
        ({"classifier_dropout": 1.0}, "`classifier_dropout` is 1.0"),
        ({"num_dims": 2, "group_size": 16}, "whose tokens form a grid"),
    ],
)
def test_settings_that_do_not_fit_are_refused(own, message):
    with pytest.raises(ValueError, match=message):
        Data2VecArrayConfig(**own)


@pytest.mark.parametrize(
    ("own", "shape", "tokens", "grid"),
    [
        ({}, (90, 3), 12, None),
        ({"num_dims": 2, "group_size": 4, "mask_sampler": "block"}, (8, 7, 3), 16, (4, 4)),
        ({"num_dims": 2, "group_size": 6}, (8, 7, 3), 10, None),
        ({"num_dims": 3, "group_size": 8}, (4, 4, 5, 3), 12, None),
    ],
)
def test_tokens_of_arrays(own, shape, tokens, grid):
    settings = tiny_config("arrays", arrays_config=own).arrays_config
    assert (settings.token_count(shape), settings.token_grid(shape)) == (tokens, grid)


def test_arrays_are_not_part_of_a_model_unless_they_are_named(tmp_path):
    assert Data2VecConfig().arrays_config is None
    config = tiny_config(("audio", "arrays"))
    config.save_pretrained(tmp_path)
    assert Data2VecConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
