"""Concepts and models as the results list them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.displays import shown_examples
from d2v_train.alignment.encoders import StudiedModel
from d2v_train.alignment.extraction import LayerFeatures
from d2v_train.alignment.properties import measure_properties
from d2v_train.alignment.results import ConceptEntry, ModelEntry


def concept_entries(table: ConceptTable, subjects: Iterable[Subject], output: Path) -> list[ConceptEntry]:
    """Return the concepts with their examples, some of which are copied beside the results."""
    properties = measure_properties(table)
    features: dict[str, LayerFeatures] = {}
    for subject in subjects:
        features = {**subject.features, **features}
    examples = shown_examples(table, features, output)
    entries = []
    for concept in table.concepts:
        nuisance = {"letters": float(len(concept.word))}
        if concept.corpus_sentences is not None:
            nuisance["log_frequency"] = round(float(np.log1p(concept.corpus_sentences)), 4)
        if concept.name in properties["duration"]:
            nuisance["duration"] = round(float(properties["duration"][concept.name][0]), 4)
        if concept.name in properties["colour"]:
            values = properties["colour"][concept.name]
            nuisance |= {
                name: round(float(value), 4) for name, value in zip(("red", "green", "blue"), values, strict=True)
            }
        entries.append(
            ConceptEntry(
                name=concept.name,
                word=concept.word,
                group=concept.group,
                exemplars=examples.get(concept.name, {}),
                corpus_sentences=concept.corpus_sentences,
                nuisance=nuisance,
            )
        )
    return entries


def model_entry(subject: Subject, models: Sequence[StudiedModel]) -> ModelEntry:
    """Return what the results say of a model."""
    family = subject.family.removeprefix("shuffled ")
    members = [model for model in models if model.family == family]
    named = next((model for model in members if model.name == subject.name.removeprefix("shuffled ")), None)
    source = named or (members[0] if members else None)
    notes = {
        "untrained": f"random weights of seed {subject.seed}; what a run of this seed starts from",
        "shuffled": "names of the concepts shuffled in every modality",
        "hand-made": "no network",
    }
    return ModelEntry(
        name=subject.name,
        kind=subject.kind,
        seed=subject.seed,
        encoders={name: source.parts[name].source if source else "hand-made" for name in subject.features},
        layers={name: features.layers for name, features in subject.features.items()},
        parameters={name: features.parameters for name, features in subject.features.items()},
        untrained_twin=f"untrained {family} {subject.seed or 0}" if subject.kind in ("joint", "separate") else None,
        note=notes.get(subject.kind, ""),
    )
