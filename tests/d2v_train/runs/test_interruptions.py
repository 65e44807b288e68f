"""Signals end a run with a checkpoint and a defined exit code; one run at a time has a folder."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from run_server import RunServer
from tiny_run import PROGRAM, ROOT, assert_same_run, before_step, environment, pretrain, tiny, write_config

from d2v_train.options.errors import OptionError
from d2v_train.pretraining.training import Pretraining
from d2v_train.runs.checkpoints import CheckpointError, CheckpointFolder
from d2v_train.runs.interruptions import INTERRUPTED, RESUMABLE, Interruptions, RunInterrupted
from d2v_train.runs.lock import RunLock
from d2v_train.support.processes import Processes
from d2v_train.support.storage import WriteError


@pytest.fixture
def config(tmp_path):
    return write_config(
        tmp_path, tiny("vision", logging={"every": 4}, checkpoints={"every": 0}, model={"hidden_dropout": 0.1})
    )


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    "numbers, code",
    [([signal.SIGTERM], RESUMABLE), ([signal.SIGUSR1] * 3, RESUMABLE), ([signal.SIGINT, signal.SIGTERM], INTERRUPTED)],
)
def test_first_signal_is_noted_and_the_others_change_nothing(numbers, code, capfd):
    before = signal.getsignal(signal.SIGTERM)
    with Interruptions() as outside:
        outside.agree(outside.wishes().tolist())
        assert not outside.stop and not outside.checkpoint
        send(*numbers)
        outside.agree(outside.wishes().tolist())
        assert outside.stop and outside.checkpoint
    assert outside.interruption("step_1").code == code
    assert signal.getsignal(signal.SIGTERM) is before
    told = capfd.readouterr().err
    assert told.count("finishing the step and writing a checkpoint") == 1 and signal.Signals(numbers[0]).name in told


@pytest.mark.parametrize(
    "error, count, ended",
    [
        ("[gloo] Connection closed by peer [127.0.0.1]:3331", 2, False),
        ("NCCL: remote process exited or there was a network error", 2, False),
        ("Connection closed by peer", 1, True),
        ("shapes do not fit", 2, True),
    ],
)
def test_after_a_lost_process_the_launchers_sigterm_does_not_cut_off_the_message(error, count, ended, capfd):
    replaced, seen = signal.getsignal(signal.SIGTERM), []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(RuntimeError), Interruptions(Processes(count=count)):
            raise RuntimeError(error)
        send(signal.SIGTERM)
        assert bool(seen) == ended and not capfd.readouterr().err
    finally:
        for number, handler in {
            signal.SIGTERM: replaced,
            signal.SIGUSR1: signal.SIG_DFL,
            signal.SIGINT: signal.default_int_handler,
        }.items():
            signal.signal(number, handler)


def test_training_in_another_thread_leaves_the_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train():
        with Interruptions():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]


def test_second_interruption_by_hand_is_obeyed_at_once():
    with Interruptions(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT, signal.SIGINT)


def test_one_signalled_process_of_several_is_enough():
    main_process, other = (Interruptions(Processes(rank, 2)) for rank in range(2))
    with other:
        send(signal.SIGINT)
        total = main_process.wishes() + other.wishes()
    for outside in (main_process, other):
        outside.agree(total.tolist())
        assert outside.stop and outside.interruption("step_1").code == INTERRUPTED


def test_clock_of_the_main_process_asks_for_checkpoints():
    main_process, other = (Interruptions(Processes(rank, 2), 0.001 / 60) for rank in range(2))
    time.sleep(0.002)
    assert main_process.wishes().tolist() == [0, 1, 0] and other.wishes().tolist() == [0, 0, 0]
    other.agree((main_process.wishes() + other.wishes()).tolist())
    assert other.checkpoint and not other.stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signalled_run_goes_on_bit_for_bit(config, tmp_path, monkeypatch, number):
    """The signal comes within a step between two log lines, another one while the checkpoint is written."""
    pretrain(config, tmp_path / "whole")
    save = Pretraining.save
    with monkeypatch.context() as patch, before_step(2, lambda: send(number)):
        patch.setattr(Pretraining, "save", lambda run: (send(number), save(run), send(number)))
        with pytest.raises(RunInterrupted, match="step_00000003.*75") as error:
            pretrain(config, tmp_path / "cut")
    assert error.value.code == 75
    assert [path.name for path in CheckpointFolder(tmp_path / "cut" / "checkpoints").whole()] == ["step_00000003"]
    assert not (tmp_path / "cut" / "final").exists()
    pretrain(config, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_run_is_not_silently_started_over(config, tmp_path, caplog):
    pretrain(config, tmp_path / "run", "checkpoints.every=3")
    older, newest = CheckpointFolder(tmp_path / "run" / "checkpoints").whole()
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "optimizer.pt").write_bytes(content)
    (tmp_path / "run" / "run.yaml").unlink()
    (tmp_path / "run" / "run.json").write_text('{"half')
    assert pretrain(config, tmp_path / "run", "checkpoints.every=3")["steps"] == 6
    assert f"{newest} is skipped: optimizer.pt" in caplog.text
    assert "not checked" in caplog.text

    log = (tmp_path / "run" / "log.jsonl").read_bytes()
    for path in (older, newest):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="model.safetensors.*0 bytes"):
        pretrain(config, tmp_path / "run", "checkpoints.every=3")
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize("damage", ["half", "lost"])
def test_damaged_options_of_a_run_are_no_reason_to_lose_it(config, tmp_path, caplog, damage):
    pretrain(config, tmp_path / "run", "max_steps=2")
    saved = tmp_path / "run" / "run.yaml"
    saved.write_text("max_steps: [") if damage == "half" else saved.unlink()
    assert pretrain(config, tmp_path / "run", "max_steps=2")["steps"] == 2
    assert f"{saved} " in caplog.text and "not checked" in caplog.text
    assert yaml.safe_load(saved.read_text())["max_steps"] == 2


def test_a_run_whose_options_lay_side_by_side_goes_on(config, tmp_path, caplog):
    pretrain(config, tmp_path / "run", "max_steps=2")
    saved = tmp_path / "run" / "run.yaml"
    tree = yaml.safe_load(saved.read_text())
    tree["log_every"] = tree.pop("logging")["every"]
    tree["checkpoint_every"] = tree.pop("checkpoints")["every"]
    former = yaml.safe_dump(tree)
    saved.write_text(former)
    with pytest.raises(OptionError, match=r"\(seed: 0 -> 1\)"):
        pretrain(config, tmp_path / "run", "max_steps=2", "seed=1")
    assert saved.read_text() == former
    assert pretrain(config, tmp_path / "run", "max_steps=2")["steps"] == 2
    assert "not checked" not in caplog.text


def test_lost_log_lines_are_said(config, tmp_path, caplog):
    pretrain(config, tmp_path / "run", "logging.every=1")
    path = tmp_path / "run" / "log.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    pretrain(config, tmp_path / "run", "logging.every=1")
    assert "log.jsonl ends at step 3, the checkpoint knew of step 6" in caplog.text


def test_finished_model_that_does_not_fit_leaves_the_one_before(config, tmp_path):
    pretrain(config, tmp_path / "run", "max_steps=2")
    final = tmp_path / "run" / "final"
    before = (final / "model.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1, hard))
    try:
        with pytest.raises(WriteError, match="finished"):
            pretrain(config, tmp_path / "run", "max_steps=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (final / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".final*"))


@pytest.fixture(scope="module")
def server():
    with RunServer() as server:
        yield server


def start(server, config, folder, *overrides, **settings):
    return server.start(config, f"output_dir={folder}", "max_steps=100000", "optim.warmup=0", *overrides,
                        output=folder.with_suffix(".txt"), **settings)  # fmt: skip


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_to_all_processes_of_a_job(server, config, tmp_path, number):
    """Data workers get it too, before the training has used their batches."""
    running = start(server, config, tmp_path / "run", "data.num_workers=2")
    assert running.wait_for(tmp_path / "run" / "log.jsonl")
    running.send(number)
    assert running.wait() == [INTERRUPTED if number == signal.SIGINT else RESUMABLE], running.text()
    assert "Traceback" not in running.text() and "The same command goes on from" in running.text()
    newest = CheckpointFolder(tmp_path / "run" / "checkpoints").newest()
    assert f"{newest} (exit code" in running.text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_of_two_processes_stops_both_after_a_checkpoint(server, config, tmp_path, rank):
    running = start(server, config, tmp_path / "run", ranks=2)
    assert running.wait_for(tmp_path / "run" / "log.jsonl")
    running.send(signal.SIGUSR1, rank)
    assert running.wait() == [RESUMABLE] * 2, running.text()
    newest = CheckpointFolder(tmp_path / "run" / "checkpoints").newest()
    assert (newest / "process_1.pt").exists() and running.text().count("The same command goes on from") == 1


@pytest.mark.slow
def test_run_whose_other_process_was_killed_ends(server, config, tmp_path):
    running = start(server, config, tmp_path / "run", ranks=2)
    assert running.wait_for(tmp_path / "run" / "log.jsonl")
    running.send(signal.SIGKILL, 1)
    assert running.wait() == [1, -signal.SIGKILL]
    assert "ProcessLostError" in running.text()


@pytest.mark.slow
def test_full_disk_ends_all_processes_with_one_sentence(server, config, tmp_path):
    running = start(server, config, tmp_path / "run", "checkpoints.every=4", ranks=2, faults={0: {"full_at": 30}})
    assert running.wait() == [1, 1]
    assert "Traceback" not in running.text()
    assert running.text().count("CheckpointError: The checkpoint of step") == 2
    assert CheckpointFolder(tmp_path / "run" / "checkpoints").newest() is not None
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_workers_of_a_killed_run_are_gone_and_its_folder_is_free(server, config, tmp_path):
    running = start(server, config, tmp_path / "run", "data.num_workers=2")
    assert running.wait_for(tmp_path / "run" / "log.jsonl")
    workers = children(running.pids[0])
    assert len(workers) >= 2 and not any(map(is_gone, workers))
    running.send(signal.SIGKILL, 0)
    assert running.wait() == [-signal.SIGKILL]
    deadline = time.monotonic() + 2
    while not all(map(is_gone, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock = RunLock(tmp_path / "run")
    lock.hold()
    lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("number, rank", [(signal.SIGKILL, 1), (signal.SIGTERM, None)])
def test_torchrun(config, tmp_path, number, rank):
    """torchrun ends the other processes with SIGTERM when one has died, and passes on its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(PROGRAM), str(config), f"output_dir={tmp_path / 'run'}", "optim.warmup=0",
               "max_steps=100000"]  # fmt: skip
    with (
        open(tmp_path / "output.txt", "w") as output,
        subprocess.Popen(command + program, cwd=tmp_path, env=environment(), stdout=output, stderr=output) as launcher,
    ):
        log = tmp_path / "run" / "log.jsonl"
        deadline = time.monotonic() + 180
        while not log.exists() or not log.stat().st_size:
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "output.txt").read_text()
            time.sleep(0.05)
        processes = children(launcher.pid)
        by_rank = {}
        for pid in processes:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            by_rank |= {int(word[5:]): pid for word in words if word.startswith(b"RANK=")}
        os.kill(launcher.pid if rank is None else by_rank[rank], number)
        launcher.wait(60)
    assert launcher.returncode != 0 and all(map(is_gone, processes))
    newest = CheckpointFolder(tmp_path / "run" / "checkpoints").newest()
    assert (newest is not None) == (number == signal.SIGTERM)


THREADS = """
import os, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import clone
from d2v_train.programs.pretrain import main

status = main(sys.argv[2:])
names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
Path("ended_" + os.environ["RANK"]).write_text(f"{status}\\n" + "".join(name for name in names if "gloo" in name))
"""


@pytest.mark.slow
def test_no_thread_of_gloo_outlives_a_run(config, tmp_path):
    """One that lets go of tensors while the interpreter ends can abort a process whose run was good."""
    (tmp_path / "threads.py").write_text(THREADS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "threads.py"]
    done = subprocess.run(
        [*launch, str(ROOT / "recipes"), str(config), f"output_dir={tmp_path / 'run'}", "max_steps=2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment(),
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"ended_{rank}").read_text() for rank in range(2)] == ["0\n", "0\n"]
