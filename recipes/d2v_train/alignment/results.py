"""Schema of align.json: every number of a study, in dataclasses.

`Study.to_json` writes it and `Study.from_json` reads it. Paths are relative to the folder of the file, so that it can
be moved. Scores that do not exist (a measure that is undefined) are None.

Legend: n concepts, L layers of a modality (0 is the input of the blocks).
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2v_train.alignment.conclusions import Control, NuisancePartial, Probe, StudyVerdict
from d2v_train.inspection.results import Inspection
from d2v_train.support.atomic import write_text


SCHEMA = 1
"""Number of this schema; it rises when a field changes its meaning."""


@dataclass(kw_only=True)
class Meta:
    """What was run, and where.

    Attributes:
        command: Command line.
        date: ISO 8601, UTC.
        commit: Commit of the repository; None outside of one.
        versions: Library -> version.
        seconds: Duration of the study.
        schema: `SCHEMA`.
    """

    command: str
    date: str
    commit: str | None
    versions: dict[str, str]
    seconds: float
    schema: int = SCHEMA


@dataclass(kw_only=True)
class Preregistration:
    """What was fixed before features were computed.

    Attributes:
        file: Name of the file.
        sha256: Hash of its bytes.
        text: Its content.
        content: The same, parsed.
        commit: Commit that last changed the file; None outside of a repository.
        committed: Date of that commit.
        changed_since: Whether the file differs from that commit.
    """

    file: str
    sha256: str
    text: str
    content: dict[str, Any]
    commit: str | None = None
    committed: str | None = None
    changed_since: bool = False


@dataclass(kw_only=True)
class Exemplars:
    """Examples of a concept in a modality.

    Attributes:
        count: Examples that features were computed of.
        unreadable: Examples that were left out because they could not be read.
        shown: A few for the page: paths of pictures and recordings relative to the folder of align.json, or sentences.
        sources: Count of each source among the examples: classes of pictures, voices.
    """

    count: int
    unreadable: int = 0
    shown: list[str] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class ConceptEntry:
    """A concept of the study.

    Attributes:
        name: Unique.
        word: What is spoken and written.
        group: Semantic group, such as "animal/mammal"; "" if unknown.
        exemplars: Modality -> its examples; modalities that lack the concept are missing.
        corpus_sentences: Sentences of the corpus that name it; None if no corpus was searched.
        nuisance: Property -> value, such as letters, phonemes, log frequency, duration.
    """

    name: str
    word: str
    group: str
    exemplars: dict[str, Exemplars]
    corpus_sentences: int | None = None
    nuisance: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class ModelEntry:
    """A set of encoders that one row of the tables stands for.

    Attributes:
        name: Unique, such as "joint 0".
        kind: "joint", "separate", "untrained", "hand-made" or "shuffled"; "encoder" for other encoders of
            transformers.
        seed: Seed of the training or of the weights; None without one.
        encoders: Modality -> folder or name of its encoder, or the feature ("pixels"); for "untrained", of the trained
            one that it is the twin of.
        layers: Modality -> names of its layers, in order.
        parameters: Modality -> parameters of its encoder; 0 for hand-made features.
        untrained_twin: Name of the entry of the same architecture without training; None if there is none.
        note: What a reader must know.
    """

    name: str
    kind: str
    seed: int | None
    encoders: dict[str, str]
    layers: dict[str, list[str]]
    parameters: dict[str, int] = field(default_factory=dict)
    untrained_twin: str | None = None
    note: str = ""


@dataclass(kw_only=True)
class LayerTable:
    """One measure at all layer pairs of two modalities in one model; rows are layers of the first modality.

    Attributes:
        model: Name of a `ModelEntry`.
        first, second: Modalities.
        measure: "mutual_knn", "cka", "rsa", "retrieval" or "direct" (nearest neighbours in the shared space without
            any map).
        settings: Such as {"k": 5}.
        n: Concepts.
        score: (L1, L2) scores.
        null_mean, null_std: (L1, L2) mean and standard deviation under permuted concepts.
        p: (L1, L2) p-values, not corrected.
        z: (L1, L2) calibrated scores, (score - null_mean) / null_std.
        low, high: (L1, L2) interval over concepts by subsampling; None where none was computed.
    """

    model: str
    first: str
    second: str
    measure: str
    settings: dict[str, Any]
    n: int
    score: list[list[float]]
    null_mean: list[list[float]]
    null_std: list[list[float]]
    p: list[list[float]]
    z: list[list[float]]
    low: list[list[float]] | None = None
    high: list[list[float]] | None = None


@dataclass(kw_only=True)
class BestPair:
    """The best of all layer pairs, corrected for having been chosen.

    Attributes:
        model, first, second, measure: As in `LayerTable`.
        layers: Names of the two layers.
        score: Score of the pair.
        null_max: Mean of the largest score of all pairs under permuted concepts.
        p: Share of permutations whose maximum (of calibrated scores) is as large.
        calibrated: Score of 0 at the (1 - alpha) quantile of the null's maximum and 1 for identical latents.
        low, high: Interval over concepts by subsampling of the score of this pair.
    """

    model: str
    first: str
    second: str
    measure: str
    layers: tuple[str, str]
    score: float
    null_max: float
    p: float
    calibrated: float
    low: float | None = None
    high: float | None = None


@dataclass(kw_only=True)
class PrimaryRow:
    """The primary measure of a model at the layers fixed in advance: a row of the table that readers see first.

    Attributes:
        model, kind, seed: Of the `ModelEntry`.
        first, second: Modalities.
        measure: Name of the measure.
        layers: Names of the two layers.
        n: Concepts.
        score, null_mean, null_std, p, z, calibrated: As above.
        low, high: Interval over concepts by subsampling of the score.
        minus_untrained: Score minus that of the untrained twin; None for models without one.
        minus_low, minus_high: Interval over concepts by subsampling of this difference.
    """

    model: str
    kind: str
    seed: int | None
    first: str
    second: str
    measure: str
    layers: tuple[str, str]
    n: int
    score: float
    null_mean: float
    null_std: float
    p: float
    z: float
    calibrated: float | None = None
    low: float | None = None
    high: float | None = None
    minus_untrained: float | None = None
    minus_low: float | None = None
    minus_high: float | None = None


@dataclass(kw_only=True)
class Similarities:
    """Cosine similarity of all pairs of concepts within a modality, or between two modalities, at one layer each.

    Attributes:
        model: Name of a `ModelEntry`.
        first, second: Modalities; equal for similarities within one.
        layers: Names of the two layers.
        names: n concepts, in the order of rows and columns (by group, then by name).
        matrix: (n, n). Between modalities, each modality's mean was removed first.
    """

    model: str
    first: str
    second: str
    layers: tuple[str, str]
    names: list[str]
    matrix: list[list[float]]


@dataclass(kw_only=True)
class Neighbours:
    """Nearest concepts of one concept across modalities.

    Attributes:
        model: Name of a `ModelEntry`.
        first: Modality of the concept.
        second: Modality of its neighbours.
        layers: Names of the two layers.
        method: "direct" (cosine after removing each modality's mean) or "map" (a linear map learned on other
            concepts).
        concept: Name.
        neighbours: Names of the nearest concepts, the nearest first.
        similarities: Their similarities.
        rank: Rank of the concept itself among all n, from 1.
        hit: Whether the nearest one is the concept itself.
    """

    model: str
    first: str
    second: str
    layers: tuple[str, str]
    method: str
    concept: str
    neighbours: list[str]
    similarities: list[float]
    rank: int
    hit: bool


@dataclass(kw_only=True)
class LevelRank:
    """How near one concept's examples of modality A are to a set of concepts in modality B.

    Attributes:
        level: "itself", a group such as "animal/mammal" (without the concept), or "everything else".
        concepts: Number of concepts of the level.
        mean_percentile: Mean percentile of their similarity among all concepts, 1 is the nearest.
        null_mean, null_std: Of the same under permuted concepts.
        p: Share of permutations with a percentile as high.
    """

    level: str
    concepts: int
    mean_percentile: float
    null_mean: float
    null_std: float
    p: float


@dataclass(kw_only=True)
class Question:
    """Where the examples of one concept in modality A rank the concepts seen from modality B.

    Attributes:
        concept: Name.
        model: Name of a `ModelEntry`.
        first, second: Modalities of the examples and of the concepts.
        layers: Names of the two layers.
        method: "direct" or "map".
        n: Concepts.
        exemplar_ranks: Rank of the concept, from 1, for each of its examples.
        exemplar_names: Names of the examples in the same order: files or sentences.
        mean_rank: Rank of the concept for the mean of its examples.
        null_mean_rank: (n + 1) / 2.
        p: Share of permuted concepts whose own name ranks as near.
        levels: The concept itself, its groups from narrow to wide, everything else.
        nearest: Names of the nearest concepts.
    """

    concept: str
    model: str
    first: str
    second: str
    layers: tuple[str, str]
    method: str
    n: int
    exemplar_ranks: list[int]
    exemplar_names: list[str]
    mean_rank: float
    null_mean_rank: float
    p: float
    levels: list[LevelRank]
    nearest: list[str]


@dataclass(kw_only=True)
class Study:
    """Everything in align.json.

    Attributes:
        inspections: What was found inside encoders of several modalities; the first one is shown in the report.
    """

    meta: Meta
    preregistration: Preregistration
    modalities: list[str]
    concepts: list[ConceptEntry]
    left_out: dict[str, str]
    models: list[ModelEntry]
    primary: list[PrimaryRow]
    tables: list[LayerTable]
    best: list[BestPair]
    similarities: list[Similarities]
    neighbours: list[Neighbours]
    questions: list[Question]
    controls: list[Control]
    nuisances: list[NuisancePartial]
    probes: list[Probe]
    verdict: StudyVerdict
    limits: list[str]
    inspections: list[Inspection] = field(default_factory=list)

    def to_json(self, path: Path) -> None:
        """Write the study as JSON, atomically."""
        write_text(path, json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False))

    @classmethod
    def from_json(cls, path: Path) -> Study:
        """Read a study.

        Raises:
            ValueError: If the file is not a study of this schema.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("meta", {}).get("schema") if isinstance(content, dict) else None
        if found != SCHEMA:
            raise ValueError(f"{path} has schema {found}; this program reads {SCHEMA}. Run `d2v align` again.")
        return _built(cls, content)


def _built(kind: Any, value: Any) -> Any:
    """Return a value of JSON as the type that a field declares."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: _built(hints[name], item) for name, item in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _built(next(item for item in arguments if item is not type(None)), value)
    if origin is list:
        return [_built(arguments[0], item) for item in value]
    if origin is tuple:
        return tuple(value)
    if origin is dict:
        return {name: _built(arguments[1], item) for name, item in value.items()}
    return value
