"""Steps whose loss or gradient is not finite: their origin, and the limit of skipped ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from d2v_train.engine.sharding import own_slice
from d2v_train.health.guard import TrainingStopped
from d2v_train.options.sections import HealthOptions


logger = logging.getLogger(__name__)

NAMES_SHOWN = 3
FIRST_SHARE_STEP = 100
"""First step at which the share of skipped ones is checked."""


class NonFinitePolicy:
    """Policy that skips steps whose loss or gradient is not finite, up to a limit in a row and a share of all.

    Args:
        options: Handling of such steps, and the limits.
        note: Records an event, `note(step, event, message, **facts)`.

    Attributes:
        skipped: Number of steps skipped so far.
        counted: Number of those that count towards the limits.
        in_a_row: Number of the last of these without a good step between.
    """

    def __init__(self, options: HealthOptions, note: Callable[..., None] = lambda *args, **facts: None):
        self.limit = 1 if options.non_finite == "stop" else options.max_bad_steps
        self.share, self.note = options.max_skipped_share, note
        self.skipped = self.counted = self.in_a_row = 0

    def good(self) -> None:
        """Count a step that moved the weights."""
        self.in_a_row = 0

    def bad(self, step: int, where: str = "the loss or the gradient is not finite", counts: bool = True) -> None:
        """Count a skipped step.

        Args:
            step: Its number, counted from 1.
            where: Description of what is not finite.
            counts: Whether it counts towards the limits; an overflow that adapts the scale of fp16 does not.

        Raises:
            TrainingStopped: A limit is exceeded.
        """
        self.skipped += 1
        self.counted += counts
        self.in_a_row += counts
        logger.warning("Step %d was skipped: %s.", step, where)
        self.note(step, "skipped_step", f"Skipped: {where}.", counts=counts)
        often = step >= FIRST_SHARE_STEP and self.counted > self.share * step
        if self.in_a_row < self.limit and not often:
            return
        amount = (
            f"{self.in_a_row} steps in a row" if self.in_a_row >= self.limit else f"{self.counted} of {step} steps"
        )
        reason = (
            f"The loss or gradient was not finite in {amount}, the last one step {step} ({where}); the weights were "
            "not changed. Lower optim.lr, lengthen optim.warmup, set optim.max_grad_norm, use "
            "mixed_precision=bf16 instead of fp16, or check the data for values that are not finite."
        )
        self.note(step, "non_finite", reason, stop=True)
        raise TrainingStopped(reason)

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {"skipped": self.skipped, "counted": self.counted, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue with the counts of a checkpoint."""
        self.skipped, self.counted, self.in_a_row = state["skipped"], state["counted"], state["in_a_row"]


def where_not_finite(
    losses: Mapping[str, Tensor],
    parameters: Iterable[tuple[str, nn.Parameter]],
    reduce: Callable[[Tensor], Tensor],
) -> str:
    """Return what is not finite: losses of modalities, else gradients, the first ones by name.

    Every process must call it, after something was not finite; it waits for the device.

    Args:
        losses: Losses of the step by modality.
        parameters: Trained parameters with names and gradients.
        reduce: Sums a tensor over all processes.
    """
    flags = reduce(torch.stack([(~loss.isfinite()).int() for loss in losses.values()])).tolist()
    bad = [name for name, flag in zip(losses, flags, strict=True) if flag]
    if bad:
        return f"the loss of {' and '.join(bad)} is not finite"
    named = [(name, parameter.grad) for name, parameter in parameters if parameter.grad is not None]
    flags = [(~own_slice(gradient).isfinite().all()).int() for _, gradient in named]
    flags = reduce(torch.stack(flags)).tolist() if named else []
    bad = [name for (name, _), flag in zip(named, flags, strict=True) if flag]
    if not bad:
        return "the norm of the gradient is not finite, though every part of it is"
    more = f" and {len(bad) - NAMES_SHOWN} more" if len(bad) > NAMES_SHOWN else ""
    return f"the gradient of {', '.join(bad[:NAMES_SHOWN])}{more} (of {len(named)} parameters) is not finite"
