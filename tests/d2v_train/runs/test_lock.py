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


def test_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("d2v_train.runs.lock.fcntl.lockf", refuse)
    RunLock(tmp_path).hold()
    assert "Function not implemented" in caplog.text
