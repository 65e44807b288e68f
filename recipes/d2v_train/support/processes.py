"""The processes of a run: sums, gathering, and a common reaction to problems in some of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor


Result = TypeVar("Result")

# Errors of gloo and NCCL after the other process has ended.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Socket Timeout",
         "remote process exited", "failed to recv", "failed to connect")  # fmt: skip


class ProcessLostError(RuntimeError):
    """Error for another process of the run that has ended; its own message has the reason."""


def is_lost_process(error: BaseException) -> bool:
    """Return whether an exception of a collective operation means that another process is gone."""
    return any(words in str(error) for words in _LOST)


def fewer_than_launched(count: int) -> str | None:
    """Return a sentence if `accelerate launch` was asked for more processes than the run has; it does not say so.

    With --cpu on one machine it starts a single process, whatever --num_processes is.

    Args:
        count: Number of processes of the run.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ or "WORLD_SIZE" in os.environ:
        return None
    with suppress(psutil.Error):
        words = " ".join(psutil.Process().parent().cmdline())
        asked = re.search(r"--num[_-]processes[= ](\d+)", words)
        if asked and int(asked[1]) > count:
            return (
                f"accelerate launch was asked for {asked[1]} processes, but this run has {count}: with --cpu it "
                f"starts only one. Use `python -m torch.distributed.run --nproc_per_node {asked[1]}` on CPUs."
            )
    return None


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Every process must call the methods, in the same order.

    Attributes:
        rank: Number of this process, counted from 0.
        count: Number of processes.
        device: Device of this process.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def of(cls, accelerator: Accelerator) -> Processes:
        """Return the processes of an engine."""
        return cls(accelerator.process_index, accelerator.num_processes, accelerator.device)

    @property
    def main(self) -> bool:
        """Return whether this is the main process, which writes files and messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        return reduce(values, reduction="sum") if self.count > 1 else values

    def gather(self, value: Any) -> list[Any]:
        """Return a value of each process, in the order of their ranks."""
        return gather_object([value]) if self.count > 1 else [value]

    def first_problem(self, problem: str | None) -> str | None:
        """Return the first thing that went wrong in any process.

        Args:
            problem: Problem of this process, if any.
        """
        return next(filter(None, self.gather(problem)), None)

    def main_decides(self, decide: Callable[[], Result]) -> Result:
        """Return in every process the result of a function that only the main one calls; its error is raised in all.

        Args:
            decide: Function that returns plain values.
        """
        if self.count == 1:
            return decide()
        outcome: list[Any] = [None, None]
        if self.main:
            try:
                outcome[0] = decide()
            except Exception as error:
                outcome[1] = error
        broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]


ONE_PROCESS = Processes()
"""A single process on a CPU."""
