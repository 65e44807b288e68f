"""Ending a run by a signal: the step is finished, a checkpoint is written, and the program ends with a defined code.

Schedulers send SIGTERM (or another signal, such as SIGUSR1) some time before they kill a job. It reaches some or all
processes of a run, and at different steps, so the processes agree once per step, in an existing reduction.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from d2v_train.support.processes import ONE_PROCESS, Processes, is_lost_process


# "Temporary failure": run the same command again. Shells use 128 + 2 for an interruption by hand.
RESUMABLE, INTERRUPTED = 75, 130
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_NOTICE = "\n{}: finishing the step and writing a checkpoint.{}\n"


class RunInterrupted(Exception):
    """Exception for a run that was stopped before its last step; the message explains how to resume it.

    Attributes:
        code: Exit code of the program.
    """

    def __init__(self, message: str, code: int = RESUMABLE):
        super().__init__(message)
        self.code = code


class Interruptions:
    """Signals to stop, and the clock of checkpoints.

    Inside `with`, the first SIGTERM, SIGUSR1 or SIGINT is only recorded. Further ones have no effect, so that a
    checkpoint that is being written is finished; but a second SIGINT interrupts at once.
    After the loss of another process they stay without effect, so that the message about it is printed.

    Args:
        processes: Processes of the run; the main one's clock is used, and it prints a line after a signal.
        checkpoint_minutes: Minutes between two checkpoints; 0 = never by time.

    Attributes:
        stop: Whether all processes have agreed to stop after this step.
        checkpoint: Whether they have agreed on a checkpoint after this step.
    """

    def __init__(self, processes: Processes = ONE_PROCESS, checkpoint_minutes: float = 0):
        self.processes, self.seconds = processes, 60 * checkpoint_minutes
        self.received: int | None = None
        self.stop = self.checkpoint = self.by_hand = self.ending = False
        self.replaced: dict[int, Any] = {}
        self.saved()

    def __enter__(self) -> Interruptions:
        # Python delivers signals to the main thread only; a run in another one ends like any program.
        if threading.current_thread() is threading.main_thread():
            self.replaced = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # A launcher sends SIGTERM to the rest as soon as one process is gone, which would end this one without a word.
        self.ending = self.processes.count > 1 and error is not None and is_lost_process(error)
        if self.ending:
            return
        for number, handler in self.replaced.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.ending and number != signal.SIGINT:
            return
        again = self.received is not None
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number if self.received is None else self.received
        if self.processes.main and not again:
            more = " Again stops at once." if number == signal.SIGINT else ""
            # A signal may interrupt another write, during which Python's buffers must not be used.
            os.write(sys.__stderr__.fileno(), _NOTICE.format(signal.Signals(number).name, more).encode())

    def saved(self) -> None:
        """Restart the time to the next checkpoint."""
        self.last_save = time.monotonic()

    def wishes(self) -> Tensor:
        """Return the requests of this process, to be summed: stop, checkpoint by time, stop by hand."""
        due = self.processes.main and 0 < self.seconds <= time.monotonic() - self.last_save
        by_hand = self.received == signal.SIGINT
        wishes = [self.received is not None, due, by_hand]
        return torch.tensor(wishes, dtype=torch.int32, device=self.processes.device)

    def agree(self, wishes: Sequence[int]) -> None:
        """Set the common decision from the requests summed over all processes."""
        self.stop, due, self.by_hand = map(bool, wishes)
        self.checkpoint = due or self.stop

    def interruption(self, checkpoint: Path) -> RunInterrupted:
        """Return the exception to raise once the checkpoint is written."""
        code = INTERRUPTED if self.by_hand else RESUMABLE
        return RunInterrupted(
            f"The run was stopped by a signal. The same command goes on from {checkpoint} (exit code {code}).", code
        )
