"""Whether training goes well: what stops a run, what it is warned of, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recipes.common.health_rules import Finding, Series, judge, judge_mask, judge_run
from recipes.common.options import Options


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to change."""


class HealthGuard:
    """Reads each log record: what stops a run, and what it is warned of, each thing once.

    A function of the records alone, so that a run that was resumed, or a log without its run, is judged alike.

    Args:
        options: the run's options, for limits and for when the checks begin.
        modalities: of the run.
    """

    def __init__(self, options: Options, modalities: Sequence[str]):
        self.options = options
        self.series = {name: Series(options.patience) for name in modalities}
        self.whole = Series(options.patience)
        # A fresh decoder predicts almost the same everywhere.
        self.first_step = max(options.warmup_steps + 1, options.std_check_from)
        self.said: set[tuple[str, str | None]] = set()

    def look(self, record: dict[str, Any]) -> list[Finding]:
        """What the log record of a step adds to what is known; the same is not found twice."""
        found: list[Finding] = []
        if "data_wait" in record:  # a probe between two log lines writes one without
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
            if record["step"] >= self.first_step:
                series.add(own)
                found += judge(name, series, self.options)
        return self.new(found)

    def new(self, findings: Iterable[Finding]) -> list[Finding]:
        """Those that were not found before."""
        fresh = []
        for finding in findings:
            if (finding.name, finding.modality) not in self.said:
                self.said.add((finding.name, finding.modality))
                fresh.append(finding)
        return fresh
