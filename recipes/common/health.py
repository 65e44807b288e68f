"""Whether training goes well: what stops a run, what it is warned of, and what to change."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.common.health_rules import Finding, Series, judge, judge_mask, judge_run
from recipes.common.options import Options


logger = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):
    """Training cannot usefully go on; the message says why and what to change."""


class NonFinitePolicy:
    """Steps whose loss or gradient is not finite are skipped, up to a limit in a row.

    Args:
        limit: consecutive steps after which the run stops.

    Attributes:
        skipped: steps that were skipped so far.
        in_a_row: the last ones of them, without a good step between.
    """

    def __init__(self, limit: int):
        self.limit, self.skipped, self.in_a_row = limit, 0, 0

    def good(self) -> None:
        """Counts a step that moved the weights."""
        self.in_a_row = 0

    def bad(self, step: int, counts: bool = True) -> None:
        """Counts a skipped step.

        Args:
            step: its number, counted from 1.
            counts: whether it means trouble; an overflow by which fp16 finds its scale does not.

        Raises:
            TrainingStopped: it was the last one that the limit allows.
        """
        self.skipped += 1
        self.in_a_row += counts
        logger.warning("Step %d was skipped: its loss or gradient is not finite.", step)
        if self.in_a_row >= self.limit:
            raise TrainingStopped(
                f"The loss or gradient was not finite in {self.in_a_row} steps in a row, the last one step {step}; "
                "the weights were left as they were before. Lower optim.lr, lengthen optim.warmup, set "
                "optim.max_grad_norm, use mixed_precision=bf16 instead of fp16, or check the data for values that are "
                "not finite. The last checkpoint is from before these steps."
            )


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
