"""What a run ran on: code, libraries, machine. Kept beside its log, one entry a start, for its model card."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import modeling_d2v


ENVIRONMENT_FILE = "environment.json"
LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")
ROOT = Path(__file__).resolve().parents[2]


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Commit of the code, versions of the libraries, and the hardware.

    Args:
        device: that this process computes on.
        processes: number of processes of the run.
    """
    is_gpu = device.type == "cuda"
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": code_commit(),
        "modeling_d2v": modeling_d2v.__version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if is_gpu else f"{device.type}, {os.cpu_count()} cores",
        "processes": processes,
    }


def code_commit() -> str | None:
    """Commit of the code, "-dirty" behind it where files differ from it; `None` outside of a clone."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit or None


def record_environment(folder: Path, device: torch.device, processes: int) -> None:
    """Adds an entry to the file in the folder of a run."""
    entries = [*read_environment(folder), environment(device, processes)]
    draft = folder / f"{ENVIRONMENT_FILE}.draft"
    draft.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, folder / ENVIRONMENT_FILE)


def read_environment(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run, the newest last; none where the file is missing or broken."""
    try:
        entries = json.loads((Path(folder) / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return entries if isinstance(entries, list) else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
