"""The log of a run, one JSON line per interval."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from d2v_train.support.atomic import write_text
from d2v_train.support.storage import writing


logger = logging.getLogger(__name__)


class RunLog:
    """`log.jsonl`, one object per line, in the order of the steps and without repetition across resumes.

    Args:
        path: The file; None writes nothing (processes other than the main one).

    Attributes:
        last: The newest line; empty if there is none.

    Raises:
        WriteError: The file cannot be written, in `open`, `write` and `flush`.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.last: dict[str, Any] = {}
        self._known_step = 0

    def open(self, step: int) -> None:
        """Continue the file of a run at a step; lines of later steps, left by a kill, are removed.

        Lines that were lost since the checkpoint, or a file that was removed, leave a line that says so.
        """
        if self.path is None:
            return
        if self.path.exists():
            kept = [line for line in read_log(self.path) if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept), "The log")
            self.last = kept[-1] if kept else {}
        last_step = self.last.get("step", 0)
        if self._known_step > last_step:
            logger.warning("%s ends at step %s, the checkpoint knew of step %d: lines are lost.",
                           self.path, last_step, self._known_step)  # fmt: skip
            self.write({"step": self._known_step, "lost_since": last_step})

    def state_dict(self) -> dict[str, int]:
        """Return the step of the newest line, by which `open` notices lost lines."""
        return {"step": self.last.get("step", 0)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the state of a checkpoint, before `open`."""
        self._known_step = state["step"]

    def write(self, record: dict[str, Any]) -> None:
        """Append a line and hand it to the operating system."""
        self.last = record
        if self.path is not None:
            with writing("The log", self.path.parent), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Flush all lines to the disk, before a checkpoint relies on them."""
        if self.path is not None and self.path.exists():
            with writing("The log", self.path.parent), open(self.path, "rb") as file:
                os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log without broken ones, such as a last line that was cut short by a kill."""
    records = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
