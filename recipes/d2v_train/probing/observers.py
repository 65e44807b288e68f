"""Observers, which look at the model at intervals during training without influence on the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from d2v_train.engine.sharding import whole_model
from d2v_train.support.random_states import random_states, restore_random_states


class Observer(Protocol):
    """An object that looks at the model every `every` steps.

    Attributes:
        every: Steps between two looks; 0 = never.
    """

    every: int

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Return values for the log by name. Every process calls it with the whole model."""


class Observers:
    """The observers of a run, called when they are due, with random states restored afterwards.

    Args:
        observers: Observers in the order in which they look.
    """

    def __init__(self, observers: Sequence[Observer] = ()):
        self.observers = [observer for observer in observers if observer.every]

    def due(self, step: int) -> bool:
        """Return whether any observer looks after this step."""
        return any(step % observer.every == 0 for observer in self.observers)

    def look(self, model: nn.Module, step: int) -> dict[str, Any]:
        """Return the values of the observers that are due after a step, by name. Every process must call it."""
        values: dict[str, Any] = {}
        with untouched():
            model = whole_model(model, next(model.parameters()).device)
            for observer in self.observers:
                if step % observer.every == 0:
                    values |= observer.look(model, step)
        return values


@contextmanager
def untouched() -> Iterator[None]:
    """Restore the random states of this process on exit."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
