"""Publishing runs: the card made from a run's record, uploads at the end of training, the command."""

import os
import re
import subprocess
import sys

import pytest
from hub_server import Fault, HubServer

from d2v_train.programs import publish
from d2v_train.runs.record import code_commit, read_record


@pytest.fixture
def empty_hub(monkeypatch):
    """One that has no object yet, so that all of them are sent."""
    with HubServer() as server:
        server.connect(monkeypatch)
        yield server


def test_the_record_names_the_commit(finished):
    (entry,) = read_record(finished)["starts"]
    assert (entry["commit"] is None) == (code_commit() is None)
    assert entry["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", entry["commit"])
    assert entry["processes"] == 1 and entry["device"].startswith("cpu")


def test_dry_run_of_the_command(run, capsys):
    publish.run_program([str(run), "me/digits", "--dry_run"])
    out = capsys.readouterr().out
    assert "model.safetensors" in out and "## Training data" in out
    assert out.endswith("Would be published: me/digits (apache-2.0)\n")


def test_the_command_goes_on_after_an_interruption(run, empty_hub, project_root, capsys):
    """An interrupted command says so in a sentence; the same command again completes the upload."""
    empty_hub.faults.append(Fault("PUT /lfs/", [0, 403]))
    program = str(project_root / "recipes" / "publish.py")
    done = subprocess.run(
        [sys.executable, program, str(run), "user/twice", "--commit_message", "Twice"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **empty_hub.environment(), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "(403)" in done.stderr
    assert set(empty_hub.files("user/twice")) == {".gitattributes"}
    made = publish.run_program([str(run), "user/twice", "--commit_message", "Twice"])
    assert empty_hub.repositories["user/twice"].messages == ["initial commit", "Twice"]
    assert set(empty_hub.files("user/twice")) == {".gitattributes", *made.files}
    assert f"Published: {empty_hub.url}/user/twice/commit/" in capsys.readouterr().out


def test_options_of_the_command_reach_the_hub(run, hub, tmp_path):
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    arguments = ["--private", "--weights", "all", "--card", str(tmp_path / "card.md"), "--token", hub.token]
    publish.run_program([str(run), "options", *arguments])
    repository = hub.repositories["user/options"]
    assert repository.private and b"# By hand" in hub.files("user/options")["README.md"]
    publish.run_program([str(run), "user/options", "--revision", "next", "--license", "mit"])
    publish.run_program([str(run), "user/options", "--create_pr", "--license", "mit"])
    assert set(repository.refs) == {"main", "next", "refs/pr/1"}
