"""What the sections of the page ask of a study: which models stand for what, and means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.alignment.report.media import Media
from d2v_train.alignment.results import LayerTable, ModelEntry, Study


MODEL_KINDS = ("joint", "separate", "encoder", "untrained", "hand-made", "shuffled")
"""Kinds of models in the order in which a reader sees them."""
MEASURE_NAMES = {
    "mutual_knn": "mutual nearest neighbours",
    "cka": "debiased CKA",
    "rsa": "RSA",
    "retrieval": "retrieval after a linear map",
    "direct": "nearest neighbour without any map",
}


@dataclass
class Page:
    """A study, and where its examples lie."""

    study: Study
    media: Media
    json_name: str
    folder: Path

    @cached_property
    def models(self) -> dict[str, ModelEntry]:
        """Models by name."""
        return {model.name: model for model in self.study.models}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of modalities that the primary measure was computed for."""
        found = dict.fromkeys((row.first, row.second) for row in self.study.primary)
        return list(found) or list(combinations(self.study.modalities, 2))

    @cached_property
    def main_kind(self) -> str:
        """The kind of model that the question is about."""
        kinds = {model.kind for model in self.study.models}
        return next((kind for kind in MODEL_KINDS if kind in kinds), "encoder")

    @cached_property
    def main_model(self) -> ModelEntry | None:
        """Its model of the lowest seed, whose details are shown."""
        found = self.of_kind(self.main_kind)
        return min(found, key=lambda model: model.seed or 0) if found else None

    @cached_property
    def primary_measure(self) -> str:
        """Name of the measure that was fixed in advance."""
        return self.study.primary[0].measure if self.study.primary else "mutual_knn"

    def of_kind(self, kind: str) -> list[ModelEntry]:
        """Return the models of a kind."""
        return [model for model in self.study.models if model.kind == kind]

    def twins(self, kind: str) -> list[ModelEntry]:
        """Return the untrained twins of the models of a kind."""
        names = dict.fromkeys(model.untrained_twin for model in self.of_kind(kind) if model.untrained_twin)
        return [self.models[name] for name in names if name in self.models]

    def tables(self, models: Sequence[ModelEntry], pair: tuple[str, str], measure: str) -> list[LayerTable]:
        """Return the tables of some models for a pair of modalities and a measure."""
        names = {model.name for model in models}
        return [
            table
            for table in self.study.tables
            if table.model in names and (table.first, table.second) == pair and table.measure == measure
        ]


def mean_of(tables: Sequence[LayerTable], field: str) -> np.ndarray | None:
    """Return the mean of one field (L1, L2) over tables of one shape, that of the first; None if none has it."""
    arrays = [np.array(value, dtype=float) for table in tables if (value := getattr(table, field)) is not None]
    arrays = [array for array in arrays if array.shape == arrays[0].shape]
    return np.mean(arrays, axis=0) if arrays else None


def colour_of(kind: str) -> str:
    """Return the CSS colour of a kind of model."""
    return f"var(--{kind if kind in MODEL_KINDS else 'encoder'})"


def short_layers(names: Sequence[str]) -> list[str]:
    """Return the numbers of layers ("word 3" -> "3"), or whole names where some have none."""
    numbers = [name.rpartition(" ")[2] for name in names]
    return numbers if all(number.isdigit() for number in numbers) else list(names)


def layer_groups(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return the kinds of layers and their numbers, such as those of a word and of its sentence; [] for one kind."""
    kinds = [name.rpartition(" ")[0] for name in names]
    counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return list(counts.items()) if len(counts) > 1 else []


def same_layers(first: Sequence[str], second: Sequence[str], preferred: str) -> list[tuple[int, int]]:
    """Return the indices of layers of equal number in two modalities.

    Args:
        first, second: Names of their layers.
        preferred: A layer of the second modality; of several kinds of layers, its kind is taken.
    """
    kind = preferred.rpartition(" ")[0]
    columns = {
        name.rpartition(" ")[2]: column for column, name in enumerate(second) if name.rpartition(" ")[0] == kind
    }
    numbers = [name.rpartition(" ")[2] for name in first]
    return [(row, columns[number]) for row, number in enumerate(numbers) if number in columns]


def measure_name(name: str, settings: dict[str, Any] | None = None) -> str:
    """Return the name of a measure for a reader, with its k."""
    found = MEASURE_NAMES.get(name, name)
    return f"{found}, k = {settings['k']}" if settings and "k" in settings else found
