"""Experiment trackers, through Accelerate: choice, logging, and resuming.

A tracker that fails, for example without a network, is reported once and never stops a run.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from d2v_train.measuring.speed import SPEED_FACTS
from d2v_train.options.errors import OptionError
from d2v_train.options.files import flatten
from d2v_train.options.run import Options
from d2v_train.options.sections import LoggingOptions
from d2v_train.support.extras import MissingDependencyError, need


logger = logging.getLogger(__name__)

# Packages whose names differ from their tracker's.
_PACKAGES = {"comet_ml": "comet-ml"}
ATTEMPTS = 3
BUILT_IN = {str(name) for name in LoggerType} - {"all"}


def tracker_names(wanted: list[str]) -> list[str]:
    """Return the names for Accelerate's `log_with`.

    Args:
        wanted: Option `logging.report_to`; `all` stands for every tracker that is installed.

    Raises:
        OptionError: There is no tracker of this name.
        MissingDependencyError: The tracker is not installed; the message names its package.
    """
    available = [str(name) for name in get_available_trackers()]
    if "all" in wanted and not available:
        logger.warning("logging.report_to is all, and no tracker is installed: log.jsonl is the only log.")
    names = dict.fromkeys(entry for name in wanted for entry in (available if name == "all" else [name]))
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise OptionError(
                f"logging.report_to names {name!r}, which is not a tracker. It can be all or some of {known}."
            )
        if name in BUILT_IN and name not in available:
            raise MissingDependencyError(
                f"logging.report_to names {name}, which is not installed. Install it with: pip install "
                f"{_PACKAGES.get(name, name)}"
            )
    return list(names)


class Trackers:
    """The trackers of a run, in its main process; inactive before `start`.

    Args:
        accelerator: Engine, made with `log_with=tracker_names(...)`.
        options: Project and name of the run.
        folder: Folder of the run.
    """

    def __init__(self, accelerator: Accelerator, options: LoggingOptions, folder: Path):
        self.accelerator, self.options, self.folder = accelerator, options, Path(folder)
        self.active: list[Any] = []
        self.in_a_row: Counter[str] = Counter()
        self.reported: set[str] = set()

    def start(
        self, parameters: Mapping[str, bool | int | float | str], known: Mapping[str, str] | None, step: int
    ) -> dict[str, str]:
        """Start the trackers; those that support it continue their earlier run.

        Args:
            parameters: The run's `hyperparameters`.
            known: Result of an earlier start; None for the first one.
            step: Number of finished steps.

        Returns:
            The ids of the run in the trackers, for the record of the run: our own "id", and those that trackers
            assigned, by tracker. Empty in processes other than the main one.

        Raises:
            OptionError: A tracker does not start. In a resumed run, which may be unattended, that is only reported.
        """
        if not self.accelerator.is_main_process:
            return {}
        # An earlier start in this folder without a checkpoint was another run.
        ids = dict(known or {}) if step else {}
        ids.setdefault("id", uuid.uuid4().hex)
        started = []
        for name in map(str, self.accelerator.log_with):
            self.accelerator.log_with, self.accelerator.trackers = [name], []
            try:
                self.accelerator.init_trackers(
                    self.options.project,
                    # mlflow refuses to change the parameters of a run.
                    None if name in ids else dict(parameters),
                    {name: start_arguments(name, self.options, self.folder, ids, step)},
                )
            except Exception as error:  # trackers may raise anything
                message = f"The tracker {name} does not start: {type(error).__name__}: {error}".rstrip(".")
                if not step:
                    raise OptionError(f"{message}. Repair it, or take it out of logging.report_to.") from error
                logger.warning("%s. The run continues without it.", message)
                continue
            started += self.accelerator.trackers
            if name == "mlflow":
                ids[name] = self.accelerator.trackers[0].active_run.info.run_id
        self.accelerator.trackers = self.active = started
        return ids

    def log(self, record: dict[str, Any]) -> None:
        """Send a log record to the trackers."""
        for tracker in list(self.active):
            try:
                tracker.log(grouped_numbers(record), step=record["step"])
                self.in_a_row[tracker.name] = 0
            except Exception as error:
                self._failed(tracker, f"{type(error).__name__}: {error}", record["step"])

    def log_images(self, pictures: dict[str, Path], step: int) -> None:
        """Send pictures to the trackers that take some, as arrays (1, H, W, 3)."""
        takers = [tracker for tracker in self.active if hasattr(tracker, "log_images")]
        if not takers:
            return
        image = need("PIL.Image", "vision")
        values = {name: np.asarray(image.open(path).convert("RGB"))[None] for name, path in pictures.items()}
        for tracker in takers:
            try:
                tracker.log_images(
                    values, step=step, **{"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                )
            except Exception as error:
                self._failed(tracker, f"{type(error).__name__}: {error}", step)

    def _failed(self, tracker: Any, what: str, step: int) -> None:
        """Report the first failure of a tracker; stop using a tracker that keeps failing."""
        self.in_a_row[tracker.name] += 1
        if self.in_a_row[tracker.name] == ATTEMPTS:
            self.active.remove(tracker)
        if tracker.name not in self.reported:
            self.reported.add(tracker.name)
            logger.warning(
                "The tracker %s failed at step %d (%s). The run continues, and log.jsonl has every record; after %d "
                "failures in a row the tracker is left alone.",
                tracker.name,
                step,
                what,
                ATTEMPTS,
            )

    def finish(self) -> None:
        """Close the trackers, so that Accelerate has none left to close."""
        for tracker in self.active:
            try:
                tracker.finish()
            except Exception as error:
                logger.warning("The tracker %s did not close: %s: %s.", tracker.name, type(error).__name__, error)
        self.active, self.accelerator.trackers = [], []

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.finish()


def hyperparameters(options: Options) -> dict[str, bool | int | float | str]:
    """Return options by dotted name, in the types that every tracker takes; those without a value are left out."""
    flat = flatten(dataclasses.asdict(options))
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat.items()
        if value is not None and value != {} and value != []
    }


def grouped_numbers(record: dict[str, Any]) -> dict[str, float]:
    """Return numbers of a log record by names with groups: `vision/loss`, `train/lr`, `speed/utilisation`."""
    return {
        name if "/" in name else f"{'speed' if name in SPEED_FACTS else 'train'}/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name != "step"
    }


def start_arguments(
    name: str, options: LoggingOptions, folder: Path, known: Mapping[str, str], step: int
) -> dict[str, Any]:
    """Return a tracker's arguments to name the run, and to continue it on resume.

    Args:
        name: Name of the tracker.
        options: Name of the run.
        folder: Folder of the run, whose name is the default.
        known: The ids that `Trackers.start` returns.
        step: Number of finished steps.
    """
    run_name = options.run_name or folder.resolve().name
    if name == "tensorboard":
        # Points of repeated steps are dropped; a new run may log images at step 0.
        return {"purge_step": step + 1 if step else 0}
    if name == "wandb":
        return {"id": known["id"], "name": run_name, "resume": "allow", "dir": str(folder)}
    if name == "trackio":
        return {"name": run_name, "resume": "allow" if step else "never"}
    if name == "mlflow":
        return {"run_id": known["mlflow"]} if "mlflow" in known else {"run_name": run_name}
    return {}
