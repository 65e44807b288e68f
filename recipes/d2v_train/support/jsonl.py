"""What a run reports: running sums that stay on the device, one JSONL line an interval, a progress bar, trackers."""

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
    """`log.jsonl`, one object a line, in the order of the steps and without repetition across resumes.

    Args:
        path: the file; None writes nothing (processes other than the main one).

    Attributes:
        last: the newest line; empty where there is none.

    Raises:
        WriteError: the file cannot be written, in `open`, `write` and `flush`.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.last: dict[str, Any] = {}
        self._known_step = 0

    def open(self, step: int) -> None:
        """Go on with the file of a run that stands at a step; lines of later steps, left by a kill, are removed."""
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

    def state_dict(self) -> dict[str, int]:
        """Return the step of the newest line, by which `open` finds out that lines are lost."""
        return {"step": self.last.get("step", 0)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the state of a checkpoint, before `open`."""
        self._known_step = state["step"]

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line and hands it to the operating system."""
        self.last = record
        if self.path is not None:
            with writing("The log", self.path.parent), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Has the disk hold all lines, before a checkpoint tells a later run that they are there."""
        if self.path is not None and self.path.exists():
            with writing("The log", self.path.parent), open(self.path, "rb") as file:
                os.fsync(file.fileno())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; those that are broken, such as a last one that was cut short by a kill, are left out."""
    records = []
    for line in Path(path).read_bytes().split(b"\n"):
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
