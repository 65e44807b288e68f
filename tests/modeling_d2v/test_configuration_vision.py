"""The configuration of images."""

import pytest

from modeling_d2v import Data2VecVisionConfig


def test_grid_size_of_images():
    config = Data2VecVisionConfig()
    assert config.grid_size(224, 160) == (14, 10)
    with pytest.raises(ValueError, match="225 x 224"):
        config.grid_size(225, 224)
