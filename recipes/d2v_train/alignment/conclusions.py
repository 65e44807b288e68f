"""What a study concludes: its controls, probes, nuisances and verdict, as `results.py` holds them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Control:
    """A case whose answer is known.

    Attributes:
        name: Such as "same data, two seeds".
        kind: "positive" or "negative".
        expected: What must come out, in words.
        measure: Name of the measure.
        n: Concepts or items.
        score, null_mean, null_std, p: As in `LayerTable`.
        passed: Whether it came out.
        note: More about it.
    """

    name: str
    kind: str
    expected: str
    measure: str
    n: int
    score: float
    null_mean: float
    null_std: float
    p: float
    passed: bool
    note: str = ""


@dataclass(kw_only=True)
class NuisancePartial:
    """RSA of a model before and after nuisance matrices are partialled out.

    Attributes:
        model, first, second, layers: As in `PrimaryRow`.
        nuisances: Names of the matrices.
        alone: Name -> Spearman correlation of this matrix with (first, second).
        rsa, p: Spearman correlation of the distance matrices, and its p-value.
        partial, partial_p: The same given all nuisance matrices.
    """

    model: str
    first: str
    second: str
    layers: tuple[str, str]
    nuisances: list[str]
    alone: dict[str, tuple[float, float]]
    rsa: float
    p: float
    partial: float
    partial_p: float


@dataclass(kw_only=True)
class Probe:
    """Whether a model knows the concepts within one modality: without that, no alignment can be expected.

    Attributes:
        model, modality: Of the features.
        layer: Name of the layer.
        accuracy: Share of examples whose nearest concept, by the mean of the other examples, is their own.
        chance: 1 / n.
        n: Concepts.
    """

    model: str
    modality: str
    layer: str
    accuracy: float
    chance: float
    n: int


@dataclass(kw_only=True)
class Vote:
    """What one measure says of one pair of modalities and one kind of model.

    Attributes:
        measure: Name of the measure.
        scores: Score of the best pair of layers, one for each seed.
        p: p-values corrected for pairs of layers and for tests, one for each seed.
        difference, low, high: Trained minus untrained over all seeds, and its interval over concepts.
        passed: Whether the measure says yes, one for each seed.
    """

    measure: str
    scores: list[float]
    p: list[float]
    difference: float
    low: float
    high: float
    passed: list[bool]


@dataclass(kw_only=True)
class PairVerdict:
    """The answer for one pair of modalities and one kind of model.

    Attributes:
        kind: "joint" or "separate", or the name of a model.
        first, second: Modalities.
        answer: "yes", "no" or "not supported" (too few concepts, or a control failed).
        sentence: The answer in words, with its uncertainty.
        p: Corrected p-values, one for each seed.
        minus_untrained, minus_low, minus_high: Mean over seeds of the difference to untrained twins, and its interval.
        votes: One for each measure of the rule; the fields above are those of the primary one.
    """

    kind: str
    first: str
    second: str
    answer: str
    sentence: str
    p: list[float]
    minus_untrained: float | None = None
    minus_low: float | None = None
    minus_high: float | None = None
    votes: list[Vote] = field(default_factory=list)


@dataclass(kw_only=True)
class StudyVerdict:
    """The answer.

    Attributes:
        answer: "yes", "no" or "not supported".
        sentence: One sentence with its uncertainty.
        rule: The rule, in words.
        pairs: For each pair of modalities and kind of model.
    """

    answer: str
    sentence: str
    rule: str
    pairs: list[PairVerdict]
