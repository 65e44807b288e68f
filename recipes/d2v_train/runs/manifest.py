"""The list of a checkpoint's files with size and checksum, which tells a whole checkpoint from a torn one.

Sizes find what broke off; checksums find what has the right length and the wrong bytes: blocks of zeros that a crash
of the machine leaves, flipped bits, a file of another checkpoint. CRC-32 is enough against accidents; it is computed
right after writing, while the file still is in memory (0.4 s a GiB on one core of a server).
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any


MANIFEST = "manifest.json"
PREFIX = "step_"
# Without one of these nothing can be resumed; a manifest that does not list them has lost lines.
NEEDED = ("model.safetensors", "optimizer.pt", "progress.json")
_BLOCK = 2**20


def step_of(checkpoint: Path) -> int | None:
    """Step in the name of a checkpoint's folder, None for a folder of another name."""
    digits = checkpoint.name.removeprefix(PREFIX)
    return int(digits) if checkpoint.name.startswith(PREFIX) and digits.isdecimal() else None


def checksum(path: Path) -> str:
    """CRC-32 of a file, as eight hexadecimal digits."""
    value, block = 0, memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            value = zlib.crc32(block[:count], value)
    return f"{value:08x}"


def write_manifest(folder: Path, step: int) -> None:
    """Writes the manifest of all files in a folder, as the last of them."""
    files = {path.name: {"bytes": path.stat().st_size, "crc32": checksum(path)} for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")


def what_is_missing(checkpoint: Path, content: bool = False) -> str | None:
    """Why a checkpoint cannot be used, or None when it is whole.

    Args:
        checkpoint: its folder.
        content: whether to read the files and compare their checksums too.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files = _listed_files(manifest)
    except (OSError, ValueError):
        return f"it has no readable {MANIFEST}"
    if step_of(checkpoint) not in (None, manifest["step"]):
        return f"{MANIFEST} is of step {manifest['step']}"
    unlisted = [name for name in NEEDED if name not in files]
    if unlisted:
        return f"{MANIFEST} does not list {unlisted[0]}"
    for name, entry in files.items():
        problem = _what_is_wrong(checkpoint / name, entry, content)
        if problem:
            return problem
    return None


def _listed_files(manifest: Any) -> dict[str, dict[str, Any]]:
    """Return the entry of each file.

    Raises:
        ValueError: the manifest is something else.
    """
    files = manifest["files"] if isinstance(manifest, dict) and manifest.keys() == {"step", "files"} else None
    if not isinstance(files, dict):
        raise ValueError(f"{MANIFEST} is not a manifest.")
    if not all(isinstance(entry, dict) and entry.keys() == {"bytes", "crc32"} for entry in files.values()):
        raise ValueError(f"{MANIFEST} has an entry that is not one of a file.")
    return files


def _what_is_wrong(path: Path, entry: dict[str, Any], content: bool) -> str | None:
    try:
        size = os.stat(path).st_size
        if size != entry["bytes"]:
            return f"{path.name} has {size} bytes instead of {entry['bytes']}"
        if content and entry["crc32"] != checksum(path):
            return f"{path.name} has other content than was written"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None
