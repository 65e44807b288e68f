"""What looks at the model while it is trained, at intervals and without a trace in the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from d2v_train.engine.sharding import whole_model
from d2v_train.support.random_states import random_states, restore_random_states


class Observer(Protocol):
    """Looks at the model every so many steps.

    Attributes:
        every: steps between two looks; 0 = never.
    """

    every: int

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Values for the log by name. Every process calls it with the whole model, in whatever mode it trains."""


class Observers:
    """Calls observers when they are due, and leaves random states and the mode of the model as they were.

    Args:
        observers: in the order in which they look.
    """

    def __init__(self, observers: Sequence[Observer] = ()):
        self.observers = [observer for observer in observers if observer.every]

    def due(self, step: int) -> bool:
        """Whether any of them looks after this step."""
        return any(step % observer.every == 0 for observer in self.observers)

    def look(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Values of those that are due after a step, by name. Every process must call it."""
        values: dict[str, Any] = {}
        with untouched():
            model = whole_model(model, next(model.parameters()).device)
            for observer in self.observers:
                if step % observer.every == 0:
                    values |= observer.look(model, step)
        return values


@contextmanager
def untouched() -> Iterator[None]:
    """Puts the random states of this process back to what they were."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
