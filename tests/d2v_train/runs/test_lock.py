"""One run at a time has a folder."""

import json
import os
import signal
import subprocess
import sys

import pytest
from tiny_run import pretrain, tiny, write_config

from d2v_train.runs.lock import LOCK, FolderInUseError, RunLock


@pytest.fixture
def config(tmp_path):
    return write_config(
        tmp_path, tiny("vision", logging={"every": 4}, checkpoints={"every": 0}, model={"hidden_dropout": 0.1})
    )


HOLD = """
import fcntl, json, os, sys, time
file = open(sys.argv[1], "w+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write(json.dumps({"pid": os.getpid(), "host": "here", "since": "now"})), file.flush()
if os.fork() == 0:  # a data worker that outlives its run
    print(os.getpid(), flush=True)
time.sleep(60)
"""


HOLD_RUN = """
import sys
from d2v_train.runs.lock import RunLock
RunLock(sys.argv[1]).hold()
"""


def test_second_run_is_refused_until_the_first_has_ended_in_whatever_way(config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_text("a lock file that a killed run has left behind")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder / LOCK)], stdout=subprocess.PIPE) as other:
        orphan = int(other.stdout.readline())
        try:
            with pytest.raises(FolderInUseError, match=f"process {other.pid}"):
                pretrain(config, folder)
            assert not (folder / "run.yaml").exists()
        finally:
            other.kill()
            other.wait()
            lock = RunLock(folder)
            lock.hold()
            os.kill(orphan, signal.SIGKILL)
    lock.release()
    assert pretrain(config, folder, "max_steps=1")["steps"] == 1
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_the_lock_holds_without_its_file(tmp_path, how):
    first = RunLock(tmp_path)
    first.hold()
    (tmp_path / LOCK).unlink()
    if how == "replaced":
        (tmp_path / LOCK).write_text("by hand")
    command = [sys.executable, "-c", HOLD_RUN, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 1 and "is in use by another run" in second.stderr
    first.release()
    assert subprocess.run(command, env=environment).returncode == 0


def test_a_worker_that_outlives_its_run_does_not_hold_the_lock(tmp_path):
    lock = RunLock(tmp_path)
    lock.hold()
    ready, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.write(told, b"x")
        signal.pause()
    os.read(ready, 1)
    try:
        lock.release()
        again = RunLock(tmp_path)
        again.hold()
        again.release()
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("d2v_train.runs.lock.fcntl.lockf", refuse)
    monkeypatch.setattr("d2v_train.runs.lock.fcntl.flock", refuse)
    RunLock(tmp_path).hold()
    assert "Function not implemented" in caplog.text
