"""What the converter says of a model."""

import pytest

from d2v_train.converting.summary import nearest_size
from modeling_d2v import Data2VecConfig
from modeling_d2v.presets import preset_names


@pytest.mark.parametrize("name", preset_names())
def test_published_sizes_are_recognised(name):
    assert nearest_size(Data2VecConfig.preset(name)) == name


def test_other_sizes_are_said_to_be_near_one():
    config = Data2VecConfig.preset("text-base", num_hidden_layers=11, text_config={"average_top_k_layers": 4})
    assert nearest_size(config) == "no published size (nearest text-base)"
    assert nearest_size(Data2VecConfig()) == "no published size"
