"""What the configurations of all modalities have in common."""

import pytest
from model_factory import FRONT_ENDS, inputs_for, tiny_config

from modeling_d2v import Data2VecModel


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_tokens_are_counted_as_the_model_makes_them(front_end):
    modality, own = FRONT_ENDS[front_end]
    config = tiny_config(modality, **{f"{modality}_config": own})
    settings = config.modality_config(modality)
    ((name, values),) = inputs_for(modality, 1).items()
    hidden = Data2VecModel(config).eval()(**{name: values}).last_hidden_state
    shape = tuple(values.shape[1:])
    assert settings.token_count(shape) == hidden.shape[1] - settings.num_extra_tokens
    grid = settings.token_grid(shape)
    assert (grid is not None) == (settings.traits.geometry == "grid")
    assert grid is None or grid[0] * grid[1] == settings.token_count(shape)


def test_position_queries_need_positions():
    with pytest.raises(ValueError, match="need fixed sin-cos positions"):
        tiny_config("text", text_config={"decoder_type": "cross_attention"})
    own = {"front_end": "perceiver", "latent_size": 16, "decoder_type": "cross_attention", "decoder_hidden_size": 24}
    assert tiny_config("text", text_config=own).text_config.has_fixed_positions
