"""What a reader of a study looks at: similarity matrices, neighbours, the one concept, probes, examples.

All of them are of the last layer of each modality, and of text of the tokens of the word, as fixed in advance: nothing
here is chosen by what comes out.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement, permutations
from pathlib import Path

import numpy as np

from d2v_train.alignment.comparisons import Subject, rounded
from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.conclusions import Probe
from d2v_train.alignment.extraction import LayerFeatures
from d2v_train.alignment.features import unit_rows
from d2v_train.alignment.question import ask, neighbours_of
from d2v_train.alignment.results import Exemplars, Neighbours, Question, Similarities


EXAMPLES_SHOWN = 4
"""Examples of a concept that are copied beside the results."""


def last_layer(features: LayerFeatures) -> int:
    """Return the index of the last layer, of text that of the tokens of the word."""
    words = [i for i, name in enumerate(features.layers) if name.startswith("word ")]
    return words[-1] if words else len(features.layers) - 1


def last_layers(subject: Subject, first: str, second: str) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Return the concepts that both modalities have at the last layers, and the names of these layers."""
    a, b = subject.paired(first, second)
    i, j = last_layer(subject.features[first]), last_layer(subject.features[second])
    return a[i], b[j], (subject.features[first].layers[i], subject.features[second].layers[j])


def by_group(names: Sequence[str], groups: dict[str, str]) -> list[str]:
    """Return names in the order of their groups, then alphabetically."""
    return sorted(names, key=lambda name: (groups[name], name))


def similarity_matrices(subject: Subject, groups: dict[str, str]) -> list[Similarities]:
    """Return cosines of concepts within and between modalities; between them only in a space of one width."""
    found = []
    for first, second in combinations_with_replacement(subject.features, 2):
        if first != second and not subject.one_width(first, second):
            continue
        names = subject.common(first, second)
        a, b, layers = last_layers(subject, first, second)
        order = [names.index(name) for name in by_group(names, groups)]
        cosines = unit_rows(a - a.mean(axis=0)) @ unit_rows(b - b.mean(axis=0)).T
        found.append(
            Similarities(
                model=subject.name,
                first=first,
                second=second,
                layers=layers,
                names=[names[i] for i in order],
                matrix=rounded(cosines[np.ix_(order, order)]),
            )
        )
    return found


def comparison_methods(subject: Subject, first: str, second: str) -> list[str]:
    """Return how two modalities can be compared: a map always, directly where the widths are equal."""
    return ["map", *(["direct"] if subject.one_width(first, second) else [])]


def all_neighbours(subject: Subject) -> list[Neighbours]:
    """Return the nearest concepts of every concept, in both directions."""
    found = []
    for first, second in permutations(subject.features, 2):
        a, b, layers = last_layers(subject, first, second)
        where = {"model": subject.name, "first": first, "second": second, "layers": layers}
        # `common` keeps the order of the first modality, as `paired` does.
        names = subject.common(first, second)
        for method in comparison_methods(subject, first, second):
            found += neighbours_of(names, a, b, method=method, where=where)
    return found


def all_questions(
    subject: Subject, concept: str, groups: dict[str, str], *, permutations_count: int
) -> list[Question]:
    """Return where the examples of one concept rank it, in all directions."""
    found = []
    for first, second in permutations(subject.features, 2):
        names, features = subject.common(first, second), subject.features[first]
        if concept not in names:
            continue
        a, b, layers = last_layers(subject, first, second)
        members = np.flatnonzero(features.concepts == features.names.index(concept))
        exemplars = features.exemplars(last_layer(features))[members]
        for method in comparison_methods(subject, first, second):
            found.append(
                ask(
                    concept,
                    names,
                    [groups[name] for name in names],
                    exemplars,
                    [features.labels[i] for i in members],
                    a,
                    b,
                    method=method,
                    permutations=permutations_count,
                    where={"model": subject.name, "first": first, "second": second, "layers": layers},
                )
            )
    return found


def concept_probe(model: str, features: LayerFeatures) -> Probe:
    """Return how often an example is nearest, by cosine, to the mean of the other examples of its own concept."""
    layer = last_layer(features)
    values, n = features.exemplars(layer), len(features.names)
    counts = np.bincount(features.concepts, minlength=n)
    sums = np.zeros((n, values.shape[1]))
    np.add.at(sums, features.concepts, values)
    similarities = unit_rows(values) @ unit_rows(sums / counts[:, None]).T
    own = features.concepts
    others = (sums[own] - values) / np.maximum(counts[own] - 1, 1)[:, None]
    similarities[np.arange(len(own)), own] = (unit_rows(values) * unit_rows(others)).sum(axis=1)
    return Probe(
        model=model,
        modality=features.modality,
        layer=features.layers[layer],
        accuracy=float((similarities.argmax(axis=1) == own).mean()),
        chance=1 / n,
        n=n,
    )


def shown_examples(
    table: ConceptTable, features: dict[str, LayerFeatures], folder: Path
) -> dict[str, dict[str, Exemplars]]:
    """Copy a few examples of each concept beside the results, and count all of them.

    Args:
        table: The concepts.
        features: Modality -> features of any model, which say which examples could be read.
        folder: Folder of the results.

    Returns:
        Name of a concept -> modality -> its examples.
    """
    found: dict[str, dict[str, Exemplars]] = {}
    for modality, of_modality in features.items():
        for index, concept in enumerate(table.with_modality(modality)):
            examples = concept.examples[modality]
            count = int((of_modality.concepts == index).sum())
            shown = [example if isinstance(example, str) else _copied(example, folder, modality, concept.name)
                     for example in _spread(examples, EXAMPLES_SHOWN)]  # fmt: skip
            sources = Counter(source_of(example) for example in examples if isinstance(example, Path))
            found.setdefault(concept.name, {})[modality] = Exemplars(
                count=count, unreadable=len(examples) - count, shown=shown, sources=dict(sources)
            )
    return found


def source_of(path: Path) -> str:
    """Return the name of a file without its running number: the class of a picture, or the voice of a recording."""
    stem, _, number = path.stem.rpartition("_")
    return stem if stem and number.isdigit() else path.stem


def _spread(examples: Sequence, count: int) -> list:
    """Return `count` examples, evenly spread."""
    at = np.unique(np.linspace(0, len(examples) - 1, min(count, len(examples))).round().astype(int))
    return [examples[i] for i in at]


def _copied(path: Path, folder: Path, modality: str, name: str) -> str:
    place = Path("examples") / modality / name / path.name
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / place)
    return place.as_posix()
