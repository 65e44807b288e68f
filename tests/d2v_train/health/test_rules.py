"""Rules of health: each holds only while all of the last records agree, and says what to change."""

import pytest

from d2v_train.health.rules import LONG, Series, judge, judge_local_encoder
from d2v_train.options.files import load_options


PATIENCE = 3
GOOD = {"loss": 0.5, "target_std": 1.0, "prediction_std": 0.5, "local_std": 1.0, "grad_norm": 1.0}


def found(*changes, overrides=()):
    """Names and whether they stop, after a series of records that differ from good ones by `changes`."""
    series = Series(PATIENCE)
    series.begin(GOOD)
    for change in changes:
        series.add(GOOD | change)
    options = load_options("tiny_audio", ["output_dir=x", *overrides])
    findings = [*judge("audio", series, options), *judge_local_encoder("audio", series, options)]
    for finding in findings:
        assert finding.modality == "audio" and any(f"{part}." in finding.message for part in ("optim", "model"))
    return {finding.name: finding.stop for finding in findings}


@pytest.mark.parametrize(
    "change, name, stop",
    [
        ({"target_std": 0.0}, "target_std_collapsed", True),
        ({"prediction_std": 0.0}, "prediction_std_collapsed", True),
        ({"local_std": 0.01}, "local_encoder_dead", True),
        ({"local_std": 0.1}, "local_encoder_weak", False),
    ],
)
def test_a_rule_waits_until_all_records_agree(change, name, stop):
    assert found(*[change] * PATIENCE).get(name) is stop
    assert name not in found(*[change] * (PATIENCE - 1))
    assert name not in found(change, {}, change, change)
    assert name not in found(*[{}] * PATIENCE)


def test_a_limit_of_0_switches_a_rule_off():
    collapsed = [{"target_std": 0.0}] * PATIENCE
    assert "target_std_collapsed" not in found(*collapsed, overrides=["health.min_target_std=0"])


def test_the_last_records_are_given_only_where_all_of_them_hold_the_value():
    series = Series(2)
    for record in ({"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 6.0}):
        series.add(record)
    assert series.last("a") == [2.0, 3.0] and series.last("b") == [5.0, 6.0]
    assert series.last("a", times=2) == [] and series.last("c") == []
    series.add({"b": 7.0})
    assert series.last("a") == [] and not series.always("a", lambda value: True)
    assert series.always("b", lambda value: value > 5) and not series.always("b", lambda value: value > 6)


def weak_message(*overrides):
    series = Series(PATIENCE)
    series.begin(GOOD)
    for _ in range(PATIENCE):
        series.add(GOOD | {"local_std": 0.1})
    options = load_options("tiny_audio", ["output_dir=x", *overrides])
    (finding,) = judge_local_encoder("audio", series, options)
    return finding.message


def test_advice_names_only_what_the_run_does_not_do_yet():
    full_rate = "optim.local_encoder_lr=1"
    assert "Lower optim.local_encoder_lr from 1 to 0.1. " in weak_message(full_rate)
    assert "optim.local_encoder_lr" not in weak_message() and "concat_group" not in weak_message()
    for setting in ("audio.transform.concat_group=false", "audio.transform.crop_seconds=1.0"):
        assert "Cut windows of random length" in weak_message(setting)


def positions_only(difference, position=0.6, times=LONG, overrides=()):
    record = {"explained_by_prediction": position + difference, "explained_by_position": position}
    return found(*[record] * (times * PATIENCE), overrides=overrides).get("positions_only")


def test_a_student_of_positions_is_told_from_one_of_content():
    assert positions_only(0.0) is False and positions_only(0.015) is False and positions_only(-0.1) is False
    assert positions_only(0.03) is None
    assert positions_only(0.0, times=LONG - 1) is None
    assert positions_only(0.0, position=0.0) is False, "with targets that hold no position it has learned nothing"
    assert positions_only(-0.9) is None, "a diverged run has a rule of its own"


def test_the_advice_for_students_of_positions_is_a_norm_unless_it_is_there():
    series = Series(1)
    for _ in range(LONG):
        series.add(GOOD | {"explained_by_prediction": 0.5, "explained_by_position": 0.5})
    for overrides, advised in (((), True), (("model.audio_config.layer_target_norm=[layer,running]",), False)):
        options = load_options("tiny_audio", ["output_dir=x", *overrides])
        (finding,) = [one for one in judge("audio", series, options) if one.name == "positions_only"]
        assert ("model.audio_config.mean_target_norm=running" in finding.message) is advised
        assert "50 %" in finding.message and "raise model.ema_decay" in finding.message.lower()
