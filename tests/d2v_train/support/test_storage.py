"""Full disks and folders that cannot be written: a sentence, and what was there before stays."""

import os
import resource
import sys
import threading
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from d2v_train.options.sections import CheckpointOptions
from d2v_train.runs.checkpoints import CheckpointError, CheckpointFolder, what_is_missing
from d2v_train.support.jsonl import RunLog, read_log
from d2v_train.support.processes import Processes
from d2v_train.support.storage import WriteError, check_writable, warn_of_little_room, writing


@contextmanager
def largest_file(count):
    """No file may grow beyond so many bytes: what Python, C++ and Rust write fails alike, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FailingChange:
    """Refuses the n-th change of a file in a folder and those that follow, while it is armed."""

    def __init__(self):
        self.left = None
        sys.addaudithook(self)  # stays for the life of the process

    def __call__(self, event, arguments):
        if self.left is None or not event.startswith(("open", "os.mkdir", "os.rename")):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device", str(arguments[0]))


failing = FailingChange()


def save(folder, step, **options):
    torch.manual_seed(0)
    model = nn.Linear(100, 50)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    states = {"optimizer": optimizer.state_dict()}
    return CheckpointFolder(folder, CheckpointOptions(**options)).save(
        step, model.state_dict(), states, {}, files={"a.txt": b"text"}
    )


@pytest.mark.parametrize("count", [0, 1, 100, 2_000, 10_000, 20_000, 30_000, 40_000])
def test_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path, count):
    before = save(tmp_path, 1)
    with largest_file(count), pytest.raises(CheckpointError) as error:
        save(tmp_path, 2)
    assert f"{tmp_path}: File too large (" in str(error.value)
    assert "step_00000001" in str(error.value)
    assert what_is_missing(before, content=True) is None
    assert list(tmp_path.iterdir()) == [before]
    assert what_is_missing(save(tmp_path, 2), content=True) is None


def test_disk_that_is_full_from_any_moment_on(tmp_path):
    before = save(tmp_path, 1, keep_last=1)
    for count in range(99):
        failing.left = count
        try:
            save(tmp_path, 2, keep_last=1)
        except CheckpointError as error:
            assert "step 2" in str(error)
            assert "No space left on device" in str(error)
        else:
            break
        finally:
            failing.left = None
        assert [path.name for path in tmp_path.iterdir()] == [before.name]
        assert what_is_missing(before, content=True) is None
    assert count > 5 and CheckpointFolder(tmp_path).newest().name == "step_00000002"


def test_old_checkpoint_that_cannot_be_removed_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1)

    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("d2v_train.runs.checkpoints.shutil.rmtree", refuse)
    newest = save(tmp_path, 2, keep_last=1)
    assert what_is_missing(newest) is None and "removed" in caplog.text


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_all_processes_give_up_together(tmp_path, failing_rank):
    before = save(tmp_path, 1)
    meeting = threading.Barrier(2, timeout=30)
    problems, outcomes = [None, None], [None, None]

    class Threads(Processes):
        def gather(self, value):
            problems[self.rank] = value
            meeting.wait()
            gathered = list(problems)
            meeting.wait()
            return gathered

    def process(rank):
        folder = CheckpointFolder(tmp_path, processes=Threads(rank, count=2))
        if rank == failing_rank:
            folder._write = lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        try:
            folder.save(2, {}, {}, {})
        except CheckpointError as error:
            outcomes[rank] = str(error)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[0] == outcomes[1] and "No space left" in outcomes[0]
    assert list(tmp_path.iterdir()) == [before]


def test_error_of_the_program_in_a_save_keeps_its_type(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        CheckpointFolder(tmp_path).save(1, {}, {}, {"what": object()})
    assert list(tmp_path.iterdir()) == []


def test_log_on_a_full_disk(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write({"step": 1})
    with largest_file(15), pytest.raises(WriteError, match="log"):
        log.write({"step": 2, "text": "x" * 50})
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1]
    log = RunLog(tmp_path / "log.jsonl")
    log.open(1)
    log.write({"step": 2})
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [1, 2]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file/inside.*output_dir"):
        check_writable(tmp_path / "file" / "inside")
    with largest_file(0), pytest.raises(WriteError, match="File too large"):
        check_writable(tmp_path)
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == [] and sorted(path.name for path in tmp_path.iterdir()) == [
        "file",
        "new",
    ]


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), writing("The log", "folder"):
        raise ZeroDivisionError


def test_little_room_is_said_at_the_start(tmp_path, monkeypatch, caplog):
    (tmp_path / "old").write_bytes(bytes(1000))
    monkeypatch.setattr("d2v_train.support.storage.free_bytes", lambda folder: 2000)
    assert warn_of_little_room(tmp_path, 1000, 3) and not caplog.text
    assert not warn_of_little_room(tmp_path, 1001, 3)
    assert "3 of about 1001 bytes" in caplog.text and "2.9 KiB, and 2.9 KiB are free" in caplog.text
