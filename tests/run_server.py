"""Starts pretraining runs in processes of their own, without importing the libraries for each of them.

A server imports them once and forks a process for every rank of a run; the tests signal and kill these, and have
faults happen inside. It is a program of its own because a process that has run torch's threads must not be forked.
"""

import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]


class RunServer:
    """The server, seen from a test; to be used in a `with` statement."""

    def __init__(self):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *arguments, output, ranks=1, faults=None, program="recipes/pretrain.py"):
        """Starts a run.

        Args:
            arguments: of the program.
            output: file that gets what all ranks print.
            ranks: number of processes.
            faults: what happens inside, by rank: `{"kill_at": n}` or `{"full_at": n}` for the n-th change of a file
                below a folder `checkpoints`, or with "/checkpoints" replaced by the value of `below`;
                `{"file_bytes": n}` for a limit on the size of each file.
            program: what runs.
        """
        faults = {str(rank): fault for rank, fault in (faults or {}).items()}
        pids = self._ask(do="start", program=program, arguments=list(map(str, arguments)), output=str(output),
                         ranks=ranks, faults=faults)  # fmt: skip
        return Run(self, pids, Path(output))


class Run:
    """A run that was started; its first process is the main one."""

    def __init__(self, server, pids, output):
        self.server, self.pids, self.output, self.codes = server, pids, output, {}

    def poll(self):
        """Exit code of each process, None while it runs; minus the number of the signal that killed it."""
        for pid in self.pids:
            if self.codes.get(pid) is None:
                self.codes[pid] = self.server._ask(do="poll", pid=pid)
        return [self.codes[pid] for pid in self.pids]

    def send(self, number, rank=None):
        """Signals one process, or all of them with all that they have started."""
        for place, pid in enumerate(self.pids):
            if self.codes.get(pid) is None and rank in (None, place):
                os.killpg(pid, number) if rank is None else os.kill(pid, number)

    def wait(self, seconds=60):
        """Exit codes when all processes have ended; those that do not are killed, and TimeoutError is raised."""
        deadline = time.monotonic() + seconds
        while None in self.poll():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"The run did not end in {seconds} s.\n{self.text()[-3000:]}")
            time.sleep(0.01)
        return self.poll()

    def wait_for(self, path, size=1, seconds=60):
        """Waits until a file has so many bytes; False if the run ended before."""
        deadline = time.monotonic() + seconds
        while not path.exists() or path.stat().st_size < size:
            if None not in self.poll():
                return False
            assert time.monotonic() < deadline, self.text()[-3000:]
            time.sleep(0.005)
        return True

    def text(self):
        """What the run has printed."""
        return self.output.read_text(errors="replace")


def serve():
    """The server's loop."""
    import torch

    import d2v_train.finetuning.run
    import d2v_train.pretraining.session  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "poll":
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = []
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            for rank in range(request["ranks"]):
                pid = os.fork()
                if not pid:
                    return run(request, rank, port)
                answer.append(pid)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def run(request, rank, port):
    """A rank of a run, in its own process."""
    os.setsid()
    for descriptor in (1, 2):
        target = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, descriptor)
        os.close(target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if request["ranks"] > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["ranks"]),
                       "LOCAL_WORLD_SIZE": str(request["ranks"]), "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(port)}  # fmt: skip
    fault = request["faults"].get(str(rank), {})
    if "file_bytes" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_bytes"], resource.RLIM_INFINITY))
    elif fault:
        install(fault)
    sys.argv = [request["program"], *request["arguments"]]
    runpy.run_path(str(ROOT / request["program"]), run_name="__main__")


CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def install(fault):
    """Has something happen at the n-th change of a file in a checkpoint, just before it is made."""
    count = 0
    lock = threading.Lock()

    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in CHANGES:
            return
        if fault.get("below", "/checkpoints") not in str(arguments[0]):
            return
        with lock:
            count += 1
        if count == fault.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        removes = event in ("os.remove", "os.rmdir")
        if "full_at" in fault and count >= fault["full_at"] and not removes:
            raise OSError(28, "No space left on device", str(arguments[0]))

    sys.addaudithook(hook)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "recipes")]
    serve()
