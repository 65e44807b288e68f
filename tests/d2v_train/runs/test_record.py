"""The record of a run: what it holds and what survives."""

import contextlib
import json
import os
import subprocess
from types import SimpleNamespace

import pytest
import torch

from d2v_train.options.files import load_options
from d2v_train.pretraining.session import recorded
from d2v_train.runs.record import RunRecord, commit_of_clone, commit_of_installation, read_record
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


def test_the_commit_is_that_of_the_repository_that_tracks_the_code(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True
        ).stdout.decode()

    code, installed = tmp_path / "clone" / "code.py", tmp_path / "libraries" / "code.py"
    for path in (code, installed):
        path.parent.mkdir()
        path.write_text("1")
    assert commit_of_clone(code) is None
    git("init")
    git("add", "clone")
    git("commit", "-m", "a")
    head = git("rev-parse", "HEAD").strip()
    assert commit_of_clone(code) == head and len(head) >= 40
    assert commit_of_clone(installed) is None
    code.write_text("2")
    assert commit_of_clone(code) == f"{head}-dirty"


@pytest.mark.parametrize(
    ("origin", "commit"),
    [
        ({"url": "https://host/name", "vcs_info": {"vcs": "git", "commit_id": "0123abcd"}}, "0123abcd"),
        ({"url": "file:///name.whl", "archive_info": {}}, None),
        (None, None),
    ],
    ids=["repository", "file", "index"],
)
def test_an_installed_package_has_the_commit_that_pip_installed(origin, commit, tmp_path, monkeypatch):
    metadata = tmp_path / "packages" / "modeling_d2v-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: modeling-d2v\nVersion: 0.1.0\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    assert commit_of_installation(tmp_path / "packages" / "d2v_train" / "runs" / "record.py") == commit
    assert commit_of_installation(tmp_path / "another" / "d2v_train" / "runs" / "record.py") is None
