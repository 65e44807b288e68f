"""How the processes of a run come to act as one when something goes wrong in a few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object


Result = TypeVar("Result")

# What gloo and NCCL say when the process at the other end is no more.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Socket Timeout",
         "remote process exited", "failed to recv", "failed to connect")  # fmt: skip


class ProcessLostError(RuntimeError):
    """Another process of the run ended; its own message tells why."""


def first_problem(accelerator: Accelerator, problem: str | None) -> str | None:
    """The first thing that went wrong in any process. Every process must call it.

    Args:
        accelerator: knows the processes.
        problem: what went wrong in this one.
    """
    if accelerator.num_processes == 1:
        return problem
    return next(filter(None, gather_object([problem])), None)


def main_process_decides(accelerator: Accelerator, decide: Callable[[], Result]) -> Result:
    """Result of a function that only the main process calls, in every process; its error is one in every process.

    Args:
        accelerator: knows the processes.
        decide: returns plain values.
    """
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = decide()
        except Exception as error:
            if accelerator.num_processes == 1:
                raise
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def is_lost_process(error: BaseException) -> bool:
    """Whether an exception of a collective operation means that another process is gone."""
    return any(words in str(error) for words in _LOST)
