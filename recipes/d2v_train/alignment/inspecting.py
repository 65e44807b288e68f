"""Look inside a joint model of a study, with the examples of its concepts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.encoders import StudiedModel, initial_encoder, open_encoder
from d2v_train.alignment.extraction import examples_of, read_example
from d2v_train.data.bad_samples import BadSample
from d2v_train.inspection.activations import ConceptItems
from d2v_train.inspection.results import Inspection
from d2v_train.inspection.run import InspectionSettings, inspect_encoder


logger = logging.getLogger(__name__)


def concept_items(model: StudiedModel, table: ConceptTable) -> tuple[dict[str, ConceptItems], list[str]]:
    """Return the examples of a table as inputs of a model, and the names of the concepts that every modality has.

    Raises:
        ValueError: If fewer than two concepts have two readable examples in every modality of the model.
    """
    modalities = [modality for modality in model.parts if modality in table.modalities]
    found: dict[str, list[tuple[str, str, dict]]] = {}
    for modality in modalities:
        _, transform = open_encoder(model.parts[modality])
        names, examples = examples_of(table, modality)
        rows = found[modality] = []
        for example in examples:
            try:
                item = transform(read_example(modality, example), 0)
            except (BadSample, ValueError, OSError, RuntimeError) as error:
                logger.warning("left out %s: %s", example.label, error)
                continue
            rows.append((names[example.concept], example.label, item))
    counts = {modality: [name for name, _, _ in rows] for modality, rows in found.items()}
    names = [
        concept.name
        for concept in table.concepts
        if all(counts[modality].count(concept.name) >= 2 for modality in modalities)
    ]
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} concepts have two readable examples in each of {', '.join(modalities)}; looking inside a "
            "model takes two or more."
        )
    numbers = {name: number for number, name in enumerate(names)}
    items = {}
    for modality, rows in found.items():
        kept = [row for row in rows if row[0] in numbers]
        concepts = np.array([numbers[name] for name, _, _ in kept])
        items[modality] = ConceptItems(
            modality, [item for _, _, item in kept], concepts, [label for _, label, _ in kept]
        )
    return items, names


def inspect_families(
    models: Sequence[StudiedModel], table: ConceptTable, focus: Sequence[str] = ()
) -> list[Inspection]:
    """Look inside the first model of every family in which one encoder serves several modalities.

    Args:
        models: Trained models of a study.
        table: The concepts.
        focus: Concepts whose relevance is shown first.
    """
    first = {model.family: model for model in reversed(models) if model.kind == "joint" and len(model.parts) > 1}
    settings = InspectionSettings(focus=list(focus))
    return [inspect_joint(model, table, settings=settings) for model in models if first.get(model.family) is model]


def inspect_joint(
    model: StudiedModel,
    table: ConceptTable,
    *,
    untrained: Sequence[int] = (0, 1, 2),
    settings: InspectionSettings | None = None,
) -> Inspection:
    """Look inside a model of which one encoder serves several modalities.

    Args:
        model: The model.
        table: The concepts.
        untrained: Seeds of the networks with random weights that stand beside it.
        settings: Settings of the inspection; `focus` names the concepts whose relevance is shown.

    Raises:
        ValueError: If the model has an encoder of its own for each modality, or too few concepts have examples.
    """
    if model.kind != "joint":
        raise ValueError(
            f"{model.name} has an encoder of its own for each modality; looking inside takes a joint one."
        )
    items, names = concept_items(model, table)
    encoder, _ = open_encoder(next(iter(model.parts.values())))
    tokenizer = None
    if "text" in items:
        tokenizer = open_encoder(model.parts["text"])[1].tokenizer
    others = [initial_encoder(encoder.config, seed).eval() for seed in untrained]
    return inspect_encoder(encoder, others, items, names, name=model.name, tokenizer=tokenizer, settings=settings)
