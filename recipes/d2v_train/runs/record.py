"""`run.json`: what a run is made of and ran on. Kept beside its log, with an entry for each start, for its model card.

`run.yaml` holds the options for resuming; this file tells people and programs what became of them.
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
    """The record of a run, written anew at every change.

    Args:
        folder: of the run.
        processes: of the run; the main one keeps the record, in the others nothing happens.

    Attributes:
        content: what the file holds: "options", "model" and "data" of the last start, "progress", "trackers", and
            "starts", the newest last.
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
        """Adds a start.

        Args:
            options: resolved options, the seed among them.
            model: resolved configuration.
            data: fingerprints by modality.
            step: finished steps, 0 for a fresh run.
            engine: that holds them together, as `engine_name` calls it.
            matmul_rate: operations a second that all processes together reach in matrix products.
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
        """Says how the last start ended; one that was killed has no such entry.

        Args:
            reason: "finished", or what stopped it.
            step, samples: of the whole run.
            seconds: of training in the whole run.
        """
        if not self.processes.main:
            return
        self.content["starts"][-1]["end"] = {"time": _now(), "step": step, "reason": reason}
        self.content["progress"] = {"step": step, "samples": samples, "seconds": round(seconds, 3)}
        self.save()

    def save(self) -> None:
        """Writes the file, whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        write_json(self.folder / RECORD_FILE, self.content, "The record of the run", default=str)


class Progress(Protocol):
    """How far a run is: finished steps, samples and seconds of training, over all of its starts."""

    step: int
    seconds: float

    @property
    def samples(self) -> int: ...


def read_record(folder: Path) -> dict[str, Any]:
    """Content of the record in the folder of a run; {"starts": []} where it is missing or broken."""
    try:
        content = json.loads((Path(folder) / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    is_record = isinstance(content, dict) and isinstance(content.get("starts"), list)
    return content if is_record else {"starts": []}


def environment(processes: Processes = ONE_PROCESS, engine: str = "one process") -> dict[str, Any]:
    """Return the commit of the code, versions of the libraries, and the hardware.

    Args:
        processes: of the run.
        engine: that holds them together.
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
        That of the clone, with "-dirty" behind it where files differ from it, or that from which pip installed; None
        where neither is known, as for a package from an index.
    """
    return commit_of_clone(FILE) or commit_of_installation(FILE)


def commit_of_clone(file: Path) -> str | None:
    """Return the commit of the git repository that tracks a file; None where none does.

    A folder of installed packages may lie in a repository of something else.
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
