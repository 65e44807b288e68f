"""Settings of the perceiver front end: what is refused, geometry and number of tokens."""

import pytest
import torch
from model_factory import PERCEIVER, tiny_config

from modeling_d2v.configuration_perceiver import block_side


def settings(modality="vision", **own):
    sampler = {"mask_sampler": own.pop("mask_sampler")} if "mask_sampler" in own else {}
    return tiny_config(modality, **{f"{modality}_config": {**PERCEIVER, **sampler, **own}}).modality_config(modality)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"grouping": "pairs"}, "`grouping` is 'pairs'; it must be one of 'groups'"),
        ({"group_size": 0}, "`group_size` is 0; it must be at least 1"),
        ({"latent_heads": 3}, r"`latent_size` \(16\) must be a multiple of `latent_heads` \(3\)"),
        ({"max_frequency": 0.7}, "`max_frequency` is 0.7; it must be in"),
        ({"coordinate_extent": 1}, "`coordinate_extent` is 1; it must be at least 2"),
        ({"group_size": 24}, "whose tokens form a line"),
        ({"reconstruction_loss_weight": 1.0}, "`reconstruction_loss_weight` is for patches"),
        ({"group_size": 24, "mask_sampler": "random", "relative_position_bias": True}, "needs tokens in rows"),
    ],
)
def test_settings_that_do_not_fit_are_refused(own, message):
    with pytest.raises(ValueError, match=message):
        settings(**own)


def test_groups_are_cubes_where_the_curve_has_them():
    assert [block_side(size, 2) for size in (1, 4, 8, 16, 24, 64)] == [1, 2, None, 4, None, 8]
    assert [block_side(size, 3) for size in (8, 16, 64)] == [2, None, 4]
    assert block_side(320, 1) == 320


def test_tokens_of_images():
    grid, line = settings(), settings(group_size=24, mask_sampler="inverse_span")
    assert (grid.traits.geometry, line.traits.geometry) == ("grid", "line")
    assert grid.token_grid((3, 32, 48)) == (8, 12) and line.token_grid((3, 32, 48)) is None
    assert grid.token_count((3, 30, 33)) == 8 * 9, "a group at the border counts"
    assert line.token_count((3, 32, 32)) == 43
    assert (grid.extent, settings(coordinate_extent=64).extent) == (32, 64)
    with pytest.raises(ValueError, match="form a line, not rows and columns"):
        line.grid_size(32, 32)


def test_tokens_of_sequences():
    text, audio = settings("text"), settings("audio", group_size=320)
    lengths = torch.tensor([1, 16, 17])
    assert text.num_tokens(lengths).tolist() == [1, 1, 2] and text.token_count((17,)) == 2
    assert audio.num_frames(torch.tensor([0, 320, 321])).tolist() == [0, 1, 2]
    assert (audio.frame_stride, audio.frame_width, audio.tokens_per_frame) == (320, 320, 1)
    assert (text.extent, audio.extent) == (40, 16000)
