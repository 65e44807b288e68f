"""What stops a run and what it is warned of, on logs of real runs and on made-up ones."""

import json
import logging
from pathlib import Path

import pytest

from d2v_train.health.guard import HealthGuard, RunHealth, TrainingStopped
from d2v_train.health.rules import Finding
from d2v_train.models.build import build_config
from d2v_train.options.files import load_options
from d2v_train.support.jsonl import read_log
from d2v_train.support.processes import ONE_PROCESS, Processes


LOGS = Path(__file__).resolve().parents[2] / "fixtures" / "logs"
CONFIGS = {"speech": "tiny_audio", "images": "tiny_cifar10", "digits": "tiny_vision", "text": "tiny_text"}
GOOD = sorted(path.stem for path in LOGS.glob("*_good.jsonl"))


def options(config="tiny_audio", *overrides):
    return load_options(config, ["output_dir=x", *overrides])


def findings(log, *overrides):
    """Names of what the guard finds in a recorded log, with the steps and whether it stops the run."""
    records = read_log(LOGS / f"{log}.jsonl")
    last = records[-1]["step"]
    chosen = options(CONFIGS[log.split("_")[0]], f"max_steps={last}", "optim.schedule_steps=null", *overrides)
    guard = HealthGuard(chosen, chosen.modalities)
    return {
        found.name: (record["step"], found.stop, found.message) for record in records for found in guard.look(record)
    }


@pytest.mark.parametrize("log", GOOD)
def test_good_runs_are_left_alone(log):
    assert findings(log) == {}


def sound_steps(log):
    """Step of each record of a recorded log, and the sound step after it."""
    records = read_log(LOGS / f"{log}.jsonl")
    last = records[-1]["step"]
    chosen = options(CONFIGS[log.split("_")[0]], f"max_steps={last}", "optim.schedule_steps=null")
    guard = HealthGuard(chosen, chosen.modalities)
    steps = []
    for record in records:
        stops = any(found.stop for found in guard.look(record))
        steps.append((record["step"], guard.sound_step, stops))
    return steps


@pytest.mark.parametrize("log", GOOD)
def test_the_end_of_a_good_run_is_sound(log):
    last, sound, _ = sound_steps(log)[-1]
    assert sound == last


@pytest.mark.parametrize("log", ["speech_lr_1", "digits_lr_1"])
def test_the_sound_step_of_a_run_that_is_stopped_lies_before_the_damage(log):
    steps = sound_steps(log)
    stopped, sound, _ = next(entry for entry in steps if entry[2])
    between = [step for step, _, _ in steps if sound < step <= stopped]
    assert len(between) >= options().health.patience


def test_the_good_speech_run_had_a_loss_that_rose_tenfold():
    losses = [record["audio/loss"] for record in read_log(LOGS / "speech_good.jsonl")]
    lowest = losses.index(min(losses))
    assert losses[0] > 7 * losses[lowest] and max(losses[lowest:]) > 7 * losses[lowest]


@pytest.mark.parametrize(
    "log, expected",
    [
        # A speech run whose targets are functions of the position: std 0.94, loss 5 % of the first.
        ("speech_of_positions", {"targets_too_easy": False, "local_encoder_weak": False}),
        # Recordings in a folder, 200 steps: the convolutions fall silent before most rules judge at all.
        ("speech_of_silent_convolutions", {"local_encoder_weak": False}),
        ("speech_lr_1", {"target_std_collapsed": True, "local_encoder_dead": True, "worse_than_constant": False}),
        ("digits_lr_1", {"local_encoder_dead": True, "predictions_in_one_direction": False}),
        ("digits_lr_0.1", {"predictions_in_one_direction": False}),
        ("digits_ema_0", {"targets_of_position": False}),
    ],
)
def test_runs_that_learn_nothing_are_stopped_or_flagged_with_advice(log, expected):
    found = findings(log)
    assert {name: stop for name, (_, stop, _) in found.items()} == expected
    for _, _, message in found.values():
        assert "model." in message or "optim." in message or "transform." in message


def test_text_with_a_high_learning_rate_predicts_one_vector():
    step, stop, _ = findings("text_lr_0.1", "health.std_check_from=20")["prediction_std_collapsed"]
    assert step == 120 and stop  # the fifth line after the first one that is judged
    warned = findings("text_lr_0.1", "health.std_check_from=20", "health.min_prediction_std=0")
    assert "weak_predictions" in warned and not any(stop for _, stop, _ in warned.values())


@pytest.mark.parametrize(
    "steps, every, found",
    [
        (200, 20, 180),  # shorter than health.std_check_from and the patience
        (100, 10, 90),
        (60, 20, 60),  # few lines: two of them agree
        (500, 100, 400),
        (1600, 20, 280),  # as in long runs from the first step that is judged
    ],
)
def test_silent_convolutions_are_found_however_short_a_run_or_its_log(steps, every, found):
    judge = HealthGuard(options("tiny_audio", f"max_steps={steps}", f"logging.every={every}"), ["audio"])
    values = {step: 0.114 if step == every else 0.01 for step in range(every, steps + 1, every)}
    steps_of = [
        step
        for step, value in values.items()
        for entry in judge.look(record(step, audio__loss=1.0, audio__local_std=value))
        if entry.name == "local_encoder_weak"
    ]
    assert steps_of == [found]


def test_convolutions_that_recover_in_the_first_half_are_no_finding():
    judge = HealthGuard(options("tiny_audio", "max_steps=400", "logging.every=20"), ["audio"])
    values = [0.114, *[0.01] * 9, *[0.1] * 10]
    found = [judge.look(record(20 * place, audio__loss=1.0, audio__local_std=value))
             for place, value in enumerate(values, start=1)]  # fmt: skip
    assert found == [[]] * 20


def record(step, **values):
    return {"step": step, **{name.replace("__", "/"): value for name, value in values.items()}}


def guard(*overrides):
    chosen = options("tiny_audio", "health.std_check_from=0", "optim.warmup=0", "health.patience=3", *overrides)
    return HealthGuard(chosen, ["audio"])


def feed(judge, name, values, **others):
    """Names found by the step at which they were."""
    found = {}
    for step, value in enumerate(values, start=1):
        for entry in judge.look(record(step, **{"audio__loss": 1.0, name: value}, **others)):
            found[entry.name] = step
    return found


def test_one_bad_record_is_no_collapse():
    values = [1, 0.01, 0.01, 1, 0.01, 0.01, 0.01, 0.01]
    assert feed(guard(), "audio__target_std", values) == {"target_std_collapsed": 7}
    assert feed(guard("health.min_target_std=0"), "audio__target_std", values) == {}


def test_nothing_is_judged_before_the_warm_up_is_over():
    judge = HealthGuard(
        options("tiny_audio", "optim.warmup=10", "health.std_check_from=0", "health.patience=3"), ["audio"]
    )
    assert feed(judge, "audio__prediction_std", [0.0] * 20) == {"prediction_std_collapsed": 13}


def test_divergence_is_flagged_first_and_stops_the_run_when_it_lasts():
    judge = guard()
    assert feed(judge, "audio__explained_by_prediction", [-1.0] * 14) == {"worse_than_constant": 3, "diverged": 12}
    assert feed(guard(), "audio__explained_by_prediction", [-1.0, -1.0, 0.1] * 5) == {}


@pytest.mark.parametrize(
    "name, values, others, expected",
    [
        ("audio__explained_by_position", [0.97, 0.3, 0.99, 0.98], {}, {"targets_of_position": 3}),
        ("audio__explained_by_neighbour", [0.97] * 4, {}, {"targets_constant": 3}),
        ("audio__explained_by_prediction", [0.005] * 12, {}, {"nothing_predicted": 12}),
        ("audio__explained_by_prediction", [0.98] * 5 + [0.3] * 4, {}, {}),  # caught for a while, then free
        ("audio__explained_by_prediction", [0.98] * 6, {}, {"targets_too_easy": 6}),
        ("audio__prediction_std", [0.04] * 3, {"audio__target_std": 0.9}, {"weak_predictions": 3}),
        ("grad_norm", [1, 1, 1, 20, 20, 20], {}, {"growing_gradients": 6}),
        ("audio__loss", [4, 1, 1, 1, 6, 6, 6], {"ema_decay": 0.9}, {"unsteady_targets": 7}),
        ("audio__loss", [4, 1, 1, 1, 6, 6, 6], {"ema_decay": 0.999}, {}),
        ("audio__masked_fraction", [0.98, 0.98], {}, {"mask": 1}),
        ("data_wait", [0.5, 0.1, 0.5, 0.5, 0.5], {}, {"waits_for_data": 5}),
    ],
)
def test_warnings(name, values, others, expected):
    assert feed(guard(), name, values, **others) == expected


def test_line_of_a_probe_is_no_log_line():
    """A resumed run reads such lines too, and must find what the run found that wrote them."""
    judge = guard()
    waits = [record(step, audio__loss=1.0, data_wait=0.5) for step in (1, 2, 4)]
    lines = [*waits[:2], record(3, audio__probe_knn=50.0), waits[2]]
    assert [found.name for line in lines for found in judge.look(line)] == ["waits_for_data"]


def test_limit_that_cuts_every_gradient():
    assert feed(guard("optim.max_grad_norm=0.1"), "grad_norm", [12.0] * 4) == {"always_clipped": 3}
    assert feed(guard("optim.max_grad_norm=1"), "grad_norm", [12.0] * 4) == {}


def health(folder, *overrides, processes=ONE_PROCESS):
    chosen = options("tiny_audio", "health.std_check_from=0", "optim.warmup=0", "health.patience=2", *overrides)
    return RunHealth(chosen, build_config(chosen), ["audio"], folder, processes)


class Other(Processes):
    """A process whose main one wants to stop."""

    def sum(self, values):
        return values + 1


BAD = {"audio__loss": 1.0, "audio__target_std": 0.0}


def test_each_thing_is_said_once_also_over_a_restart(tmp_path, caplog):
    run = health(tmp_path, "health.collapse=warn", "optim.lr=0.5")
    run.open(0)
    for step in (1, 2, 3):
        run.check(record(step, **BAD))
    events = read_log(tmp_path / "events.jsonl")
    assert [(event["step"], event["event"]) for event in events] == [
        (0, "high_learning_rate"), (2, "target_std_collapsed"),
    ]  # fmt: skip
    assert "optim.lr from 0.5 to about 0.001" in events[1]["message"] and events[1]["stop"]
    assert caplog.text.count("tokens no longer differ") == 1

    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record(step, **BAD)) + "\n" for step in (1, 2, 3)))
    again = health(tmp_path, "health.collapse=warn", "optim.lr=0.5")
    again.open(1)  # what came after the checkpoint is found again
    assert [event["step"] for event in read_log(tmp_path / "events.jsonl")] == [0]
    again.check(record(2, **BAD))
    again.check(record(3, **BAD))
    assert read_log(tmp_path / "events.jsonl") == events


def test_all_processes_stop_when_the_main_one_says_so(tmp_path):
    main = health(tmp_path)
    main.open(0)
    main.check(record(1, **BAD))
    with pytest.raises(TrainingStopped, match="step 2.*target_std.*audio"):
        main.check(record(2, **BAD))
    other = health(tmp_path, processes=Other(rank=1, count=2))
    other.open(0)
    with pytest.raises(TrainingStopped, match="main process"):
        other.check(record(2))


def test_findings_are_logged_with_their_step(tmp_path, caplog):
    run = health(tmp_path)
    with caplog.at_level(logging.WARNING):
        run.report(7, [Finding("name", "audio", "What was found.")])
    assert "Step 7: What was found." in caplog.text
