"""Stopping runs that cannot recover, and warnings about what looks wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from d2v_train.health.advice import advice_at_start
from d2v_train.health.rules import Finding, Series, is_damaged, judge, judge_local_encoder, judge_mask, judge_run
from d2v_train.options.run import Options
from d2v_train.support.jsonl import RunLog, read_log
from d2v_train.support.processes import ONE_PROCESS, Processes
from modeling_d2v import Data2VecConfig


logger = logging.getLogger(__name__)

LEAST_PATIENCE = 2
"""Fewest log lines that must agree about the local encoder, in runs with few of them."""


class RunHealth:
    """Reports of the guard of a run, each finding once.

    The main process judges; either all processes stop or none.

    Args:
        options: Options of the run.
        config: Configuration of the model.
        modalities: Modalities of the run.
        folder: Folder of the run, for `events.jsonl`.
        processes: Processes of the run.
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
        """Restore the findings of earlier parts of the run, then report those about the options.

        Args:
            step: Number of finished steps.
        """
        if not self.processes.main:
            return
        self.events.open(step)
        records = read_log(self.folder / "log.jsonl") if (self.folder / "log.jsonl").exists() else []
        for record in records:
            if record["step"] <= step:
                self.guard.look(record)
        for event in read_log(self.events.path) if self.events.path.exists() else []:
            self.guard.reported.add((event.get("event"), event.get("modality")))
        self.report(step, self.guard.new(advice_at_start(self.options, self.config)))

    def check(self, record: dict[str, Any]) -> None:
        """Judge a log record. Every process must call it.

        Raises:
            TrainingStopped: Training cannot recover; raised in all processes.
        """
        found = self.guard.look(record) if self.processes.main else []
        self.report(record["step"], found)
        reason = next((finding.message for finding in found if finding.stop), None)
        stop = reason is not None and self.options.health.collapse == "stop"
        if self.processes.sum(torch.tensor(int(stop), device=self.processes.device)):
            step = record["step"]
            raise TrainingStopped(
                f"At step {step}: {reason}" if reason else f"At step {step}; the main process reports the reason."
            )

    def report(self, step: int, findings: Iterable[Finding]) -> None:
        """Report findings on the console and in the file of events."""
        for finding in findings:
            logger.warning("Step %d: %s", step, finding.message)
            self.note(step, finding.name, finding.message, modality=finding.modality, stop=finding.stop)

    def note(self, step: int, event: str, message: str, **facts: Any) -> None:
        """Add a line to `events.jsonl`, in the main process."""
        if self.processes.main:
            self.events.write({"step": step, "event": event, **facts, "message": message})


class TrainingStopped(RuntimeError):
    """Error for training that cannot recover; the message has the reason and what to change."""


class HealthGuard:
    """Guard that checks each log record and finds each problem once.

    Its findings depend on the records only, so that resumed runs and logs without a run are judged equally.

    Args:
        options: Options of the run, for limits and the first step of the checks.
        modalities: Modalities of the run.
    """

    def __init__(self, options: Options, modalities: Sequence[str]):
        self.options = options
        self.series = {name: Series(options.health.patience) for name in modalities}
        self.whole = Series(options.health.patience)
        # A new decoder predicts almost the same everywhere.
        self.first_step = max(options.warmup_steps + 1, options.health.std_check_from)
        # The local encoder does not depend on the decoder: it is judged in short runs too, which end before the others
        # are, or whose log has few lines.
        self.first_encoder_step = min(self.first_step, max(options.warmup_steps + 1, options.max_steps // 2))
        lines = (options.max_steps - self.first_encoder_step) // options.logging.every
        patience = min(options.health.patience, max(LEAST_PATIENCE, lines))
        self.encoders = {name: Series(patience) for name in modalities}
        self.reported: set[tuple[str, str | None]] = set()
        self.sound_step = 0
        """Step of the newest record without a sign of damage in any modality."""

    def look(self, record: dict[str, Any]) -> list[Finding]:
        """Return the new findings after a log record."""
        found: list[Finding] = []
        sound = True
        if "data_wait" in record:  # records of probes between two log lines lack it
            self.whole.add(record)
            found += judge_run(self.whole, self.options)
        for name, series in self.series.items():
            own = {key.removeprefix(f"{name}/"): value for key, value in record.items()
                   if key.startswith(f"{name}/") or "/" not in key}  # fmt: skip
            if "loss" not in own:
                continue  # the interval had no step of this modality
            if not series.first:
                found += judge_mask(name, own, self.options)
            series.begin(own)
            encoder = self.encoders[name]
            encoder.begin(own)
            if record["step"] >= self.first_encoder_step:
                encoder.add(own)
                found += judge_local_encoder(name, encoder, self.options)
                sound &= not is_damaged(own, series.first, self.options.health)
            if record["step"] >= self.first_step:
                series.add(own)
                found += judge(name, series, self.options)
        if sound:
            self.sound_step = record["step"]
        return self.new(found)

    def new(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return the findings that were not found before."""
        fresh = []
        for finding in findings:
            if (finding.name, finding.modality) not in self.reported:
                self.reported.add((finding.name, finding.modality))
                fresh.append(finding)
        return fresh
