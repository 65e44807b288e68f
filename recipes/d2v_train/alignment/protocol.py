"""What a study fixes in advance: a file with concepts, measures, nulls and verdict, stored with its hash."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from d2v_train.alignment.intervals import SHARE
from d2v_train.alignment.layers import MEASURES
from d2v_train.alignment.results import Preregistration
from d2v_train.alignment.verdict import ALPHA, MIN_CONCEPTS_FOR_NO, PRIMARY_MEASURE, VERDICT_MEASURES
from d2v_train.options.errors import OptionError, at_least
from d2v_train.options.files import CONFIG_FOLDER


FOLDS = 5
"""Parts of the concepts for retrieval: the map of each is learned on the others."""
FEW_CONCEPTS = 20
"""Up to as many concepts, the number of neighbours is 3."""
NUISANCES = ("letters", "length", "frequency", "phonemes", "colour", "duration")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The section `study` of a preregistration.

    Attributes:
        layers: "all".
        measures: Those that vote on the verdict, always `VERDICT_MEASURES`; here so that the file says them.
        described: Measures that are shown without a vote.
        neighbours: k of the primary measure above 20 concepts, None takes 10; up to 20 concepts it is 3.
        permutations: Of concepts.
        draws: Subsets of concepts for intervals.
        untrained: Random weights of each architecture.
        alpha: Level, always `ALPHA`.
        majority_of_seeds: Whether the answer is that of most seeds.
        least_concepts_for_no: Concepts that a "no" needs, always `MIN_CONCEPTS_FOR_NO`.
        nuisances: What is partialled out of RSA, of `NUISANCES`.
        question: Concept that is looked at alone; None for none.

    Raises:
        OptionError: If a value is wrong.
    """

    layers: str = "all"
    measures: tuple[str, ...] = VERDICT_MEASURES
    described: tuple[str, ...] = ("rsa", "direct")
    neighbours: int | None = None
    permutations: int = 999
    draws: int = 500
    untrained: int = 5
    alpha: float = ALPHA
    majority_of_seeds: bool = True
    least_concepts_for_no: int = MIN_CONCEPTS_FOR_NO
    nuisances: tuple[str, ...] = NUISANCES
    question: str | None = None

    def __post_init__(self):
        fixed = {"layers": "all", "measures": tuple(VERDICT_MEASURES), "alpha": ALPHA, "majority_of_seeds": True,
                 "least_concepts_for_no": MIN_CONCEPTS_FOR_NO}  # fmt: skip
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise OptionError(f"study.{name} is {getattr(self, name)}; the verdict is defined for {value} only.")
        for kind, given, known in (("described", self.described, MEASURES), ("nuisances", self.nuisances, NUISANCES)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise OptionError(f"study.{kind} names {', '.join(unknown)}; there are {', '.join(known)}.")
        at_least("study.neighbours", self.neighbours, 1)
        for name, least in (("permutations", 19), ("draws", 20), ("untrained", 1)):
            at_least(f"study.{name}", getattr(self, name), least)

    @property
    def all_measures(self) -> tuple[str, ...]:
        """Measures that vote and measures that do not."""
        return (*self.measures, *self.described)

    def settings(self, measure: str, concepts: int) -> dict[str, Any]:
        """Return the settings of a measure for a number of concepts."""
        if measure == PRIMARY_MEASURE and self.neighbours and concepts > FEW_CONCEPTS:
            return {"k": self.neighbours}
        if measure == "retrieval":
            # Every fold of the smallest subset holds two candidates.
            return {"folds": max(2, min(FOLDS, int(SHARE * concepts) // 2))}
        return {}


def read_protocol(place: str | Path) -> tuple[Protocol, Preregistration]:
    """Read a preregistration: the path of a YAML file, or the name of one in `configs`.

    Raises:
        OptionError: If there is none, or its section `study` is wrong.
    """
    path = Path(place)
    if not path.is_file():
        path = CONFIG_FOLDER / f"{Path(place).stem}.yaml"
    if not path.is_file():
        raise OptionError(f"There is no preregistration {place}. Give a YAML file with a section `study`.")
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not YAML: {error}") from error
    section = content.get("study") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise OptionError(f"{path} has no section `study`, which names measures, permutations and so on.")
    unknown = sorted(set(section) - {field.name for field in fields(Protocol)})
    if unknown:
        raise OptionError(f"{path}: study has no field {', '.join(unknown)}.")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
    commit, date = last_commit(path)
    changed = bool(_git(path.parent, "status", "--porcelain", "--", path.name))
    return Protocol(**values), Preregistration(
        file=path.name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
        content=content,
        commit=commit,
        committed=date,
        changed_since=changed,
    )


def last_commit(path: Path) -> tuple[str | None, str | None]:
    """Return the last commit of a file or folder and its date (ISO 8601); None outside of a repository."""
    folder = path if path.is_dir() else path.parent
    found = _git(folder, "log", "-1", "--format=%h %cI", "--", "." if path.is_dir() else path.name).split()
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _git(folder: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
