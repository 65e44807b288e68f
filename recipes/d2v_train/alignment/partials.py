"""Similarity of modalities before and after nuisances are partialled out."""

from __future__ import annotations

from collections.abc import Iterable

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.conclusions import NuisancePartial
from d2v_train.alignment.displays import last_layers
from d2v_train.alignment.layers import align
from d2v_train.alignment.measures import rsa_with_distances
from d2v_train.alignment.properties import measure_properties, nuisance_matrices
from d2v_train.alignment.protocol import Protocol


def partial_all(table: ConceptTable, subjects: Iterable[Subject], protocol: Protocol) -> list[NuisancePartial]:
    """Return RSA at the last layers before and after the nuisances are partialled out."""
    properties = measure_properties(table)
    concepts = {concept.name: concept for concept in table.concepts}
    found, matrices = [], {}
    for subject in subjects:
        for first, second in subject.pairs:
            names = tuple(subject.common(first, second))
            if names not in matrices:
                matrices[names] = nuisance_matrices([concepts[name] for name in names], properties, protocol.nuisances)
            nuisances = matrices[names]
            if not nuisances:
                continue
            a, b, layers = last_layers(subject, first, second)
            plain = align("rsa", a, b, distance="euclidean", permutations=protocol.permutations, draws=0)
            partial = align("rsa", a, b, permutations=protocol.permutations, draws=0, nuisances=nuisances)
            alone = {
                name: (rsa_with_distances(a, matrix), rsa_with_distances(b, matrix))
                for name, matrix in nuisances.items()
            }
            found.append(
                NuisancePartial(
                    model=subject.name,
                    first=first,
                    second=second,
                    layers=layers,
                    nuisances=list(nuisances),
                    alone=alone,
                    rsa=float(plain.scores[0, 0]),
                    p=float(plain.p_values[0, 0]),
                    partial=float(partial.scores[0, 0]),
                    partial_p=float(partial.p_values[0, 0]),
                )
            )
    return found
