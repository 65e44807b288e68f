"""Health of a run: findings on the console and in `events.jsonl`, and one decision for all processes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from modeling_d2v import Data2VecConfig
from recipes.common.health import HealthGuard, TrainingStopped
from recipes.common.health_rules import Finding
from recipes.common.options import Options
from recipes.common.processes import ONE_PROCESS, Processes
from recipes.common.runlog import RunLog, read_log
from recipes.common.start_advice import advice_at_start


logger = logging.getLogger(__name__)


class RunHealth:
    """What the guard finds in a run, told once.

    The main process judges, and all of them stop or none.

    Args:
        options: the run's options.
        config: configuration of the model.
        modalities: of the run.
        folder: of the run, for `events.jsonl`.
        processes: of the run.
    """

    def __init__(
        self,
        options: Options,
        config: Data2VecConfig,
        modalities: Iterable[str],
        folder: Path,
        processes: Processes = ONE_PROCESS,
    ):
        self.options, self.config, self.folder, self.processes = options, config, Path(folder), processes
        self.guard = HealthGuard(options, list(modalities))
        self.events = RunLog(self.folder / "events.jsonl" if processes.main else None)

    def open(self, step: int) -> None:
        """Takes up what former parts of the run saw and said, then says what the options alone tell.

        Args:
            step: finished steps.
        """
        if not self.processes.main:
            return
        self.events.open(step)
        records = read_log(self.folder / "log.jsonl") if (self.folder / "log.jsonl").exists() else []
        for record in records:
            if record["step"] <= step:
                self.guard.look(record)
        for event in read_log(self.events.path) if self.events.path.exists() else []:
            self.guard.said.add((event.get("event"), event.get("modality")))
        self.tell(step, self.guard.new(advice_at_start(self.options, self.config)))

    def check(self, record: dict[str, Any]) -> None:
        """Judges a log record. Every process must call it.

        Raises:
            TrainingStopped: in all processes, when training cannot usefully go on.
        """
        found = self.guard.look(record) if self.processes.main else []
        self.tell(record["step"], found)
        reason = next((finding.message for finding in found if finding.stop), None)
        stop = reason is not None and self.options.collapse == "stop"
        if self.processes.sum(torch.tensor(int(stop), device=self.processes.device)):
            step = record["step"]
            raise TrainingStopped(
                f"At step {step}: {reason}" if reason else f"At step {step}; the main process says why."
            )

    def tell(self, step: int, findings: Iterable[Finding]) -> None:
        """Says what was found, on the console and in the file of events."""
        for finding in findings:
            logger.warning("Step %d: %s", step, finding.message)
            self.note(step, finding.name, finding.message, modality=finding.modality, stop=finding.stop)

    def note(self, step: int, event: str, message: str, **facts: Any) -> None:
        """Adds a line to `events.jsonl`, in the main process."""
        if self.processes.main:
            self.events.write({"step": step, "event": event, **facts, "message": message})
