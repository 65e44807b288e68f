"""Trackers: their names, what they get, resumption, failures; and options in the style of command lines."""

from functools import partial

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from d2v_train.options.errors import OptionError
from d2v_train.options.files import as_overrides, load_options
from d2v_train.options.sections import LoggingOptions
from d2v_train.programs.pretrain import run_program
from d2v_train.runs import trackers
from d2v_train.runs.record import RunRecord, read_record
from d2v_train.runs.trackers import (
    ATTEMPTS,
    Trackers,
    grouped_numbers,
    hyperparameters,
    start_arguments,
    tracker_names,
)
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.jsonl import read_log


class Notebook(GeneralTracker):
    """A tracker that writes into a list, or fails where it is told to."""

    name, requires_logging_directory = "notebook", False
    pages: list = []
    broken: set = set()

    def __init__(self, run_name, **kwargs):
        super().__init__()
        self.pages.clear()
        self.run_name = run_name

    tracker = None

    def _write(self, what, entry):
        if what in self.broken:
            raise ConnectionError("the network is gone")
        self.pages.append((what, entry))

    def start(self):
        self._write("start", self.run_name)

    def store_init_configuration(self, values):
        self._write("config", values)

    def log(self, values, step=None, **kwargs):
        self._write("log", (step, values))

    def finish(self):
        self._write("finish", None)


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(Notebook, "broken", set())
    register_tracker_class(Notebook)
    yield Notebook
    del LOGGER_TYPE_TO_CLASS["notebook"]


@pytest.fixture
def options(tmp_path):
    return load_options(
        "tiny_vision", [f"output_dir={tmp_path}", "logging.report_to=notebook", "logging.project=digits"]
    )


def test_names_come_as_a_list_or_with_commas_and_all_means_what_is_installed(tmp_path, monkeypatch, caplog):
    loaded = load_options("tiny_vision", [f"output_dir={tmp_path}", "logging.report_to=tensorboard, wandb,none"])
    assert loaded.logging.report_to == ["tensorboard", "wandb"]
    assert load_options("tiny_vision", ["logging.report_to=[tensorboard]"]).logging.report_to == ["tensorboard"]
    assert load_options("tiny_vision", ["logging.report_to=none"]).logging.report_to == tracker_names([]) == []
    assert "tensorboard" in tracker_names(["all", "tensorboard"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    assert tracker_names(["all"]) == [] and "installed" in caplog.text


def test_unknown_and_missing_trackers_are_sentences(monkeypatch):
    with pytest.raises(OptionError, match="'tensorbord'"):
        tracker_names(["tensorbord"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(MissingDependencyError, match="comet_ml, which is not installed.*pip install comet-ml$"):
        tracker_names(["tensorboard", "comet_ml"])


def test_what_trackers_get_is_flat_and_grouped(options):
    flat = hyperparameters(options)
    assert flat["optim.lr"] == options.optim.lr and flat["vision.transform.mean"] == 0.305
    assert flat["optim.betas"] == "[0.9, 0.98]" and "init_from" not in flat and "audio" not in flat
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    record = {"step": 3, "lr": 0.1, "samples": 48, "vision/loss": 0.5, "utilisation": 0.4, "note": "x"}
    assert grouped_numbers(record) == {
        "train/lr": 0.1,
        "train/samples": 48.0,
        "vision/loss": 0.5,
        "speed/utilisation": 0.4,
    }


def test_a_resumed_run_goes_on_where_the_tracker_knows_it(tmp_path):
    arguments = partial(start_arguments, options=LoggingOptions(), folder=tmp_path)
    known = {"id": "a" * 32}
    for name in ("wandb", "trackio", "mlflow", "dvclive"):
        assert "purge_step" not in arguments(name, known=known, step=0)
    assert arguments("tensorboard", known=known, step=0) == {"purge_step": 0}
    assert arguments("wandb", known=known, step=4)["id"] == known["id"]
    assert arguments("tensorboard", known=known, step=4) == {"purge_step": 5}
    assert arguments("mlflow", known={**known, "mlflow": "7"}, step=4) == {"run_id": "7"}


def test_a_run_is_called_as_the_options_say_or_else_like_its_folder(tmp_path):
    for options, name in ((LoggingOptions(), "digits"), (LoggingOptions(run_name="first"), "first")):
        assert start_arguments("wandb", options, tmp_path / "digits", known={"id": "a"}, step=0)["name"] == name


def started(options, folder, step=0):
    accelerator = Accelerator(cpu=True, log_with=tracker_names(options.logging.report_to), project_dir=str(folder))
    made = Trackers(accelerator, options.logging, folder)
    record = RunRecord(folder)
    record.add(trackers=made.start(hyperparameters(options), record.content.get("trackers"), step))
    return made


def test_a_start_over_is_another_run_for_the_trackers(options, tmp_path, notebook):
    """As after a run that was stopped before its first checkpoint."""
    ids = []
    for step in (0, 0, 4):
        AcceleratorState._reset_state(reset_partial_state=True)
        started(options, tmp_path, step)
        ids.append(read_record(tmp_path)["trackers"]["id"])
    assert ids[0] != ids[1] == ids[2]


def test_a_tracker_that_fails_is_reported_once_and_left_alone_in_the_end(options, tmp_path, notebook, caplog):
    with started(options, tmp_path) as made:
        made.log({"step": 1, "lr": 0.1})
        notebook.broken = {"log"}
        for step in range(2, 2 + ATTEMPTS - 1):
            made.log({"step": step, "lr": 0.1})
        notebook.broken = set()
        made.log({"step": 9, "lr": 0.1})  # it is back
        notebook.broken = {"log"}
        for step in range(10, 10 + ATTEMPTS):
            made.log({"step": step, "lr": 0.1})
        notebook.broken = set()
        made.log({"step": 20, "lr": 0.1})
    steps = [entry[0] for what, entry in notebook.pages if what == "log"]
    assert steps == [1, 9]
    assert caplog.text.count("The tracker notebook failed at step 2 (ConnectionError: the network is gone)") == 1
    assert caplog.text.count("failed") == 1


def test_a_tracker_that_does_not_start_stops_a_fresh_run_only(options, tmp_path, notebook, caplog):
    notebook.broken = {"start"}
    with pytest.raises(OptionError, match="notebook.*ConnectionError"):
        started(options, tmp_path)
    made = started(options, tmp_path, step=8)
    made.log({"step": 9, "lr": 0.1})
    assert made.active == [] and "without it" in caplog.text and notebook.pages == []


def test_a_run_tells_its_options_and_every_record(tmp_path, notebook):
    settings = [
        "cpu=true",
        "max_steps=2",
        "logging.every=1",
        "--logging.report_to",
        "notebook",
        "--logging.project=digits",
    ]
    run_program(["tiny_vision", "--output-dir", str(tmp_path), *settings])
    kinds = [what for what, _ in notebook.pages]
    assert kinds == ["start", "config", "log", "log", "finish"]
    pages = dict(notebook.pages[:2])
    assert pages["start"] == "digits" and pages["config"]["vision.batch_size"] == 8
    step, values = notebook.pages[3][1]
    assert step == 2 and values["vision/loss"] == read_log(tmp_path / "log.jsonl")[-1]["vision/loss"]
    assert len(read_record(tmp_path)["trackers"]["id"]) == 32


def test_tensorboard_goes_on_with_a_resumed_run(tmp_path):
    """A run of two steps, extended by two: one curve, without the points that were taken twice."""
    settings = ["cpu=true", "logging.every=1", "optim.schedule_steps=4", "logging.report_to=tensorboard"]
    for steps in (2, 4):
        AcceleratorState._reset_state(reset_partial_state=True)
        run_program(["tiny_vision", f"output_dir={tmp_path}", f"max_steps={steps}", *settings])
    events = EventAccumulator(str(tmp_path / "data2vec")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("vision/loss")]
    records = read_log(tmp_path / "log.jsonl")
    assert (
        losses == [(record["step"], pytest.approx(record["vision/loss"])) for record in records] and len(losses) == 4
    )
    assert {"train/lr", "speed/samples_per_s", "speed/utilisation"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    "typed, meant",
    [
        (["max_steps=2", "optim.lr=1e-3"], ["max_steps=2", "optim.lr=1e-3"]),
        (["--dry_run"], ["dry_run=true"]),
        (
            ["--dry-run", "--logging.report-to", "tensorboard,wandb"],
            ["dry_run=true", "logging.report_to=tensorboard,wandb"],
        ),
        (["--optim.lr=1e-3", "--cpu", "data.vision=a/b"], ["optim.lr=1e-3", "cpu=true", "data.vision=a/b"]),
        (["--data.vision", "/a=b/c", "--compile"], ["data.vision=/a=b/c", "compile=true"]),
        (["--optim.min_lr", "-1"], ["optim.min_lr=-1"]),
    ],
)
def test_options_may_be_typed_as_in_most_programs(typed, meant):
    assert as_overrides(typed) == meant


def test_an_option_without_a_name_is_a_sentence():
    with pytest.raises(OptionError, match="'--=3'"):
        as_overrides(["--=3"])
