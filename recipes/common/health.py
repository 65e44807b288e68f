"""Whether training goes well: what stops a run, what it is warned of, and what to change."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from recipes.common.options import Options


logger = logging.getLogger(__name__)

# Share of the targets' variance explained by position above which a run is warned; pictures of digits reach 0.88 in a
# run that learns well.
POSITION_ALARM = 0.95


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
    """Reads each log record: stops collapsed runs, warns of those whose good loss is no good sign.

    Args:
        options: the run's options, for limits and for when the checks begin.
        modalities: of the run.
    """

    def __init__(self, options: Options, modalities: Sequence[str]):
        self.modalities = list(modalities)
        self.floors = {"target_std": options.min_target_std, "prediction_std": options.min_prediction_std}
        # A fresh decoder predicts almost the same everywhere.
        self.first_step = max(options.warmup_steps + 1, options.std_check_from)
        self.warned: set[str] = set()

    def check(self, record: dict[str, Any]) -> None:
        """Looks at the log record of a step.

        Raises:
            TrainingStopped: targets or predictions have collapsed.
        """
        if record["step"] < self.first_step:
            return
        for name in self.modalities:
            self._warn_of_empty_targets(name, record)
            self._check_collapse(name, record)

    def _check_collapse(self, name: str, record: dict[str, Any]) -> None:
        """Stops a run whose targets or predictions no longer differ from token to token."""
        for kind, floor in self.floors.items():
            value = record.get(f"{name}/{kind}")
            if value is not None and value < floor:
                raise TrainingStopped(
                    f"The {kind} of {name} is {value:.4f} at step {record['step']}, below min_{kind}={floor}: tokens "
                    "no longer differ. Lower optim.lr, lengthen optim.warmup, raise model.ema_decay, or mask more of "
                    f"the input; min_{kind}=0 switches this check off."
                )

    def _warn_of_empty_targets(self, name: str, record: dict[str, Any]) -> None:
        """Says so when a good loss would be no good sign."""
        share = record.get(f"{name}/explained_by_position", 0.0)
        if share > POSITION_ALARM and name not in self.warned:
            self.warned.add(name)
            logger.warning(
                "Step %d: %.0f %% of the variance of the %s targets is the same in every sample at the same position, "
                "so they can be predicted without looking at the input. Vary the position of the content (random "
                "crops, concatenation), or narrow the position convolutions; trust a probe, not the loss.",
                record["step"],
                100 * share,
                name,
            )
