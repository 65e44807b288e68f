"""Advice at the start: on settings that cannot learn well, and none on the committed ones."""

import pytest

from d2v_train.health.advice import advice_at_start, share_of_first_weights
from d2v_train.health.rules import POSITION_ADVICE
from d2v_train.models.build import build_config
from d2v_train.options.files import load_options, pretraining_configs
from modeling_d2v import Data2VecConfig


def options(config="tiny_audio", *overrides):
    return load_options(config, ["output_dir=x", *overrides])


def advice(config, *overrides):
    chosen = options(config, *overrides)
    text = {"text_config": {"vocab_size": 300}} if "text" in chosen.modalities else None
    return {found.name for found in advice_at_start(chosen, build_config(chosen, 300 if text else None))}


@pytest.mark.parametrize("config", [path.stem for path in pretraining_configs()])
def test_committed_configurations_need_no_advice(config):
    assert advice(config) == set()


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["optim.lr=0.1"], "high_learning_rate"),
        (["model.ema_decay=0", "model.ema_end_decay=0"], "teacher_too_fast"),
        (["model.ema_decay=0.9998", "model.ema_end_decay=0.99999"], "teacher_too_slow"),
        (["audio.batch_size=1", "accumulate=1"], "small_batch"),
        (
            ["audio.transform.crop_seconds=1.0", "audio.transform.concat_group=false",
             "model.audio_config.conv_pos_width=95", "model.audio_config.conv_pos_depth=5"],
            "positions_see_all",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_learn_well_are_named(overrides, expected):
    assert advice("tiny_audio", *overrides) == {expected}


def test_advice_about_positions_is_given_where_they_are_learned_by_convolutions():
    """Positions of spectrograms are absolute: nothing about them can be set."""
    window = ["audio.transform.crop_seconds=0.5", "audio.transform.concat_group=false"]
    assert "positions_see_all" not in advice("tiny_spectrogram", *window)
    for config, named in (
        ("tiny_audio", True),
        ("tiny_spectrogram", False),
        ("audio_base_ls960", True),
        ("audio_spectrogram_base", False),
    ):
        assert ("conv_pos_width" in POSITION_ADVICE["audio"](options(config))) == named


def test_advice_for_a_small_batch_fits_how_it_is_cut():
    said = []
    for limits in ([], ["audio.micro_batch_size=1"]):
        chosen = options("tiny_audio", "audio.batch_size=1", *limits)
        said += [found.message for found in advice_at_start(chosen, build_config(chosen))]
    assert "accumulate=1 or more" in said[0] and "accumulate" not in said[1] and "micro-batches stay" in said[1]


def test_a_new_front_end_over_pretrained_blocks_needs_a_teacher_that_follows(tmp_path):
    build_config(options()).save_pretrained(tmp_path)
    slow = ["model.ema_decay=0.9999", "model.ema_end_decay=0.9999", f"init_from={tmp_path}"]
    assert "teacher_too_slow" not in advice("tiny_audio", *slow)
    assert "teacher_too_slow" in advice("tiny_audio", *slow, "init_parts=blocks")


def test_share_of_the_first_weights_is_the_product_of_all_decays():
    config = Data2VecConfig(modalities=["audio"], ema_decay=0.9, ema_end_decay=0.99, ema_anneal_end_step=50)
    product = 1.0
    for step in range(1, 81):
        product *= 0.99 - 0.09 * (1 - min(step / 50, 1.0))
    assert share_of_first_weights(config, 80) == pytest.approx(product, rel=0.1)
