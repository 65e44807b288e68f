"""The record of a run: what it holds and what survives."""

import contextlib
import json
import os
from types import SimpleNamespace

import pytest
import torch

from d2v_train.options.files import load_options
from d2v_train.pretraining.session import recorded
from d2v_train.runs.record import RunRecord, read_record
from d2v_train.support.processes import ONE_PROCESS, Processes
from d2v_train.support.storage import WriteError


@pytest.fixture
def options(tmp_path):
    return load_options("tiny_vision", [f"output_dir={tmp_path}", "seed=7"])


@contextlib.contextmanager
def training(options, step=0, processes=ONE_PROCESS):
    """Around the training of a run in the folder of the options, which it gives with its step."""
    record, run = RunRecord(options.output_dir, processes), SimpleNamespace(step=step, samples=0, seconds=0.0)
    data = {"vision": {"records": 9, "names": "ab", "samples": 9}}
    record.start(options, {"hidden_size": 96}, data, step=step, matmul_rate=2.34e9)
    with recorded(record, run):
        yield run


def test_a_finished_run_says_what_it_was_made_of_and_came_to(options, tmp_path):
    with training(options) as run:
        run.step, run.seconds, run.samples = 12, 3.5, 192
        assert "end" not in read_record(tmp_path)["starts"][0]  # as a kill would leave it
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["options"]["seed"] == 7 and content["model"] == {"hidden_size": 96}
    assert content["data"]["vision"]["samples"] == 9
    assert content["progress"] == {"step": 12, "samples": 192, "seconds": 3.5}
    (start,) = content["starts"]
    assert start["step"] == 0 and start["matmul_gflop_per_s"] == 2.3
    assert start["torch"] == torch.__version__ and start["command"]
    assert start["engine"] == "one process"
    assert start["end"]["reason"] == "finished" and start["end"]["step"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_that_fails_says_why_and_its_continuation_adds_a_start(options, tmp_path):
    with pytest.raises(ZeroDivisionError), training(options, 3):
        raise ZeroDivisionError("of all things")
    with training(options, 3):
        pass
    first, second = read_record(tmp_path)["starts"]
    assert first["end"]["reason"] == "ZeroDivisionError: of all things"
    assert second["step"] == 3 and second["end"]["reason"] == "finished"


def test_a_full_disk_is_a_sentence_and_does_not_hide_what_stopped_the_run(options, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError), training(options):
        monkeypatch.setattr(os, "fsync", refuse)
        raise ZeroDivisionError
    with pytest.raises(WriteError, match="record"):
        RunRecord(tmp_path).save()
    assert "end" not in read_record(tmp_path)["starts"][0]  # what was there is whole


def test_other_processes_write_nothing(options, tmp_path):
    processes = Processes(rank=1, count=2)
    RunRecord(tmp_path, processes).add(trackers={"id": "a"})
    with training(options, processes=processes):
        pass
    assert not list(tmp_path.iterdir())


def test_facts_that_are_added_are_kept_at_once_and_through_the_starts(options, tmp_path):
    for name in ("a", "b"):
        RunRecord(tmp_path).add(trackers={"id": name})
        assert read_record(tmp_path)["trackers"] == {"id": name}
    with training(options):
        pass
    assert read_record(tmp_path)["trackers"] == {"id": "b"} and len(read_record(tmp_path)["starts"]) == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"starts": 3}'])
def test_a_broken_record_is_an_empty_one(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert read_record(tmp_path) == {"starts": []}
