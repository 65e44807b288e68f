"""`run.json`: configuration, data, software and hardware of a run, with an entry for each start.

It is kept for the model card; the options for resuming are in `run.yaml`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, Protocol

import torch

import modeling_d2v
from d2v_train.options.run import Options
from d2v_train.support.atomic import write_json
from d2v_train.support.processes import ONE_PROCESS, Processes


RECORD_FILE = "run.json"
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
FILE = Path(__file__).resolve()


class RunRecord:
    """The record of a run, rewritten at every change.

    Args:
        folder: Folder of the run.
        processes: Processes of the run; only the main one keeps the record.

    Attributes:
        content: Content of the file: "options", "model" and "data" of the last start, "amounts" of the data by
            modality, "progress", "trackers", and "starts", the newest last.
    """

    def __init__(self, folder: Path, processes: Processes = ONE_PROCESS):
        self.folder, self.processes = Path(folder), processes
        self.content = read_record(folder)

    def start(
        self,
        options: Options,
        model: dict[str, Any],
        data: dict[str, Any],
        *,
        step: int,
        engine: str = "one process",
        matmul_rate: float | None = None,
    ) -> None:
        """Add the entry of a start.

        Args:
            options: Resolved options, including the seed.
            model: Resolved configuration.
            data: Fingerprints by modality.
            step: Number of finished steps, 0 for a new run.
            engine: Name of the engine, see `engine_name`.
            matmul_rate: Matrix-product rate of all processes together, in operations per second.
        """
        if not self.processes.main:
            return
        entry = {
            **environment(self.processes, engine),
            "step": step,
            "matmul_gflop_per_s": None if not matmul_rate else round(matmul_rate / 1e9, 1),
            "command": list(sys.argv),
        }
        self.content |= {"options": dataclasses.asdict(options), "model": model, "data": data}
        self.content["starts"].append(entry)
        self.save()

    def add(self, **facts: Any) -> None:
        """Add facts by name, which replace those of the same name."""
        if self.processes.main:
            self.content |= facts
            self.save()

    def stop(self, reason: str, *, step: int, samples: int, seconds: float) -> None:
        """Record how the last start ended; a killed one has no such entry.

        Args:
            reason: "finished", or what stopped it.
            step, samples: Steps and samples of the whole run.
            seconds: Training time of the whole run.
        """
        if not self.processes.main:
            return
        self.content["starts"][-1]["end"] = {"time": _now(), "step": step, "reason": reason}
        self.content["progress"] = {"step": step, "samples": samples, "seconds": round(seconds, 3)}
        self.save()

    def save(self) -> None:
        """Write the file atomically.

        Raises:
            WriteError: The file cannot be written.
        """
        write_json(self.folder / RECORD_FILE, self.content, "The record of the run", default=str)


class Progress(Protocol):
    """Progress of a run: finished steps, samples and seconds of training, over all of its starts."""

    step: int
    seconds: float

    @property
    def samples(self) -> int: ...


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record in the folder of a run; {"starts": []} where it is missing or broken."""
    try:
        content = json.loads((Path(folder) / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    is_record = isinstance(content, dict) and isinstance(content.get("starts"), list)
    return content if is_record else {"starts": []}


def environment(processes: Processes = ONE_PROCESS, engine: str = "one process") -> dict[str, Any]:
    """Return the commit of the code, versions of the libraries, and the hardware.

    Args:
        processes: Processes of the run.
        engine: Name of the engine.
    """
    device = processes.device
    is_gpu = device.type == "cuda"
    return {
        "time": _now(),
        "commit": code_commit(),
        "modeling_d2v": modeling_d2v.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if is_gpu else f"{device.type}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "engine": engine,
    }


@cache
def code_commit() -> str | None:
    """Return the commit of the code that runs.

    Returns:
        That of the clone, with the suffix "-dirty" if files differ from it, or that from which pip installed; None if
        neither is known, as for a package from an index.
    """
    return commit_of_clone(FILE) or commit_of_installation(FILE)


def commit_of_clone(file: Path) -> str | None:
    """Return the commit of the git repository that tracks a file; None if there is none.

    A folder of installed packages may lie in an unrelated repository.
    """
    if shutil.which("git") is None:
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(file.parent), *words], capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    if not git("ls-files", "--", file.name):
        return None
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit or None


def commit_of_installation(file: Path) -> str | None:
    """Return the commit from which pip installed the package with a file (`pip install git+https://...`), or None."""
    try:
        package: Distribution = distribution("modeling-d2v")
        if Path(str(package.locate_file(file.relative_to(file.parents[2])))).resolve() != file:
            return None  # the package of that name is another copy
        origin = json.loads(package.read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    return origin.get("vcs_info", {}).get("commit_id")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
