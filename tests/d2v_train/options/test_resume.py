"""What may change when a run is resumed, and the options that runs of former releases kept."""

import dataclasses
from pathlib import Path

import pytest

from d2v_train.options.errors import OptionError
from d2v_train.options.files import build_options, load_options, read_run_options, save_options
from d2v_train.options.resume import check_resumable


# Kept by a run of the configuration tiny_vision when all of these options lay side by side.
FORMER = Path(__file__).resolve().parents[2] / "fixtures" / "options" / "run.yaml"


def options(**changes):
    return build_options({"output_dir": "run", "max_steps": 100, "vision": {"batch_size": 4}, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"optim": {"lr": 0.5}},
        {"model": {"hidden_size": 8}},
        {"model": {"vision_config": {"num_masks": 3}}},
        {"vision": {"batch_size": 8}},
        {"data": {"vision": "elsewhere"}},
        {"schedule": "mixed"},
        {"audio": {"batch_size": 4}},
    ],
)
def test_resume_refuses_what_makes_another_run_and_names_it(changes):
    with pytest.raises(OptionError) as error:
        check_resumable(options(), options(**changes))
    name, value = next(iter(changes.items()))
    inner = next(iter(value)) if isinstance(value, dict) and name != "audio" else ""
    assert f"{name}.{inner}".rstrip(".") in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"logging": {"every": 1, "report_to": ["wandb"]}, "checkpoints": {"keep_last": 9}},
        {"data": {"num_workers": 4}, "output_dir": "moved"},
        {"health": {"collapse": "warn"}, "hub": {"push": True}, "cpu": True},
        {"vision": {"batch_size": 4, "micro_batch_size": 2}},
        {"probe": {"every": 3, "vision": {"data": "labelled", "dataset": {"label_column": "kind"}}}},
    ],
)
def test_resume_accepts_what_does_not_touch_the_numbers(changes):
    check_resumable(options(), options(**changes))
    check_resumable(options(**changes), options())


def test_longer_run_is_refused_until_the_schedule_is_pinned():
    with pytest.raises(OptionError, match="optim.schedule_steps=100"):
        check_resumable(options(), options(max_steps=200))
    pinned = options(max_steps=200, optim={"schedule_steps": 100})
    check_resumable(options(), pinned)
    assert pinned.warmup_steps == options().warmup_steps, "a warm-up fraction counts from the schedule"


def test_saved_options_are_read_back_equal(tmp_path: Path):
    before = load_options("tiny_joint", ["optim.lr=1e-7"])
    save_options(before, tmp_path / "run.yaml")
    assert build_options(read_run_options(tmp_path / "run.yaml")) == before


def test_a_run_of_former_releases_goes_on():
    saved = build_options(read_run_options(FORMER))
    assert (saved.checkpoints.every, saved.checkpoints.keep_last, saved.checkpoints.keep_every) == (10, 3, 5)
    assert (saved.logging.every, saved.logging.report_to, saved.logging.project) == (2, ["tensorboard"], "digits")
    assert (saved.health.patience, saved.health.collapse, saved.health.max_bad_fraction) == (7, "warn", 0.02)
    assert (saved.hub.push, saved.hub.model_id) == (False, "me/digits")
    now = load_options("tiny_vision", ["max_steps=20", "cpu=true"])
    check_resumable(saved, now)
    with pytest.raises(OptionError, match="seed"):
        check_resumable(saved, dataclasses.replace(now, seed=1))
    assert load_options(FORMER) == saved, "it is a configuration too"


def test_former_names_are_for_saved_runs_alone(tmp_path):
    (tmp_path / "mine.yaml").write_text(FORMER.read_text())
    with pytest.raises(OptionError, match="'log_every'.*'logging.every'"):
        load_options(tmp_path / "mine.yaml")
