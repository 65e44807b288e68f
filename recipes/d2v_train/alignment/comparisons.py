"""Every comparison of a study: alignments of all models, differences to untrained ones, and verdicts by seed.

Legend: n concepts, L layers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from d2v_train.alignment.conclusions import PairVerdict, Vote
from d2v_train.alignment.extraction import LayerFeatures
from d2v_train.alignment.layers import Alignment, Contrast, align, contrast
from d2v_train.alignment.protocol import Protocol
from d2v_train.alignment.results import BestPair, LayerTable, PrimaryRow
from d2v_train.alignment.verdict import PRIMARY_MEASURE, RULE, correct_tests, decide
from d2v_train.alignment.verdict import Verdict as SeedVerdict


logger = logging.getLogger(__name__)

DIGITS = 5


@dataclass
class Subject:
    """A model with the concept matrices of all of its modalities.

    Attributes:
        name: Unique.
        kind: As in `ModelEntry`.
        family: Models that differ in the seed alone have the same family.
        seed: None without one.
        features: Modality -> features.
        matrices: Modality -> (n, D) of each layer.
    """

    name: str
    kind: str
    family: str
    seed: int | None
    features: dict[str, LayerFeatures]
    matrices: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.matrices:
            self.matrices = {name: features.matrices() for name, features in self.features.items()}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs of its modalities."""
        return list(combinations(self.features, 2))

    def common(self, first: str, second: str) -> list[str]:
        """Return the names of the concepts that both modalities have."""
        other = set(self.features[second].names)
        return [name for name in self.features[first].names if name in other]

    def paired(self, first: str, second: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the concept matrices of two modalities over their common concepts, in the same order."""
        names = self.common(first, second)
        return tuple(
            [matrix[[self.features[side].names.index(name) for name in names]] for matrix in self.matrices[side]]
            for side in (first, second)
        )

    def one_width(self, first: str, second: str) -> bool:
        """Return whether all layers of both modalities have the same width, as a shared space needs."""
        return len({matrix.shape[1] for side in (first, second) for matrix in self.matrices[side]}) == 1

    def shuffled(self, seed: int) -> Subject:
        """Return the same features with the names of the concepts shuffled, differently in every modality."""
        random = np.random.default_rng(seed)
        orders = {name: random.permutation(len(features.names)) for name, features in self.features.items()}
        matrices = {name: [matrix[orders[name]] for matrix in layers] for name, layers in self.matrices.items()}
        return Subject(
            f"shuffled {self.name}", "shuffled", f"shuffled {self.family}", self.seed, self.features, matrices
        )


Key = tuple[str, str, str, str]
"""Model, first and second modality, measure."""


def align_all(subjects: Iterable[Subject], protocol: Protocol) -> dict[Key, Alignment]:
    """Return the alignment of every model, pair of modalities and measure; the same permutations for all of them.

    Intervals are computed for trained models alone, whose claims need them.
    """
    found = {}
    for subject in subjects:
        for first, second in subject.pairs:
            a, b = subject.paired(first, second)
            for measure in protocol.all_measures:
                if measure == "direct" and not subject.one_width(first, second):
                    continue
                trained = subject.kind in ("joint", "separate")
                draws = protocol.draws if trained and measure == PRIMARY_MEASURE else 0
                found[subject.name, first, second, measure] = align(
                    measure, a, b, permutations=protocol.permutations, alpha=protocol.alpha, draws=draws,
                    **protocol.settings(measure, len(a[0])),
                )  # fmt: skip
        logger.info("aligned %s", subject.name)
    return found


def layer_table(subject: Subject, key: Key, alignment: Alignment) -> LayerTable:
    """Return the results of all layer pairs."""
    model, first, second, measure = key
    return LayerTable(
        model=model,
        first=first,
        second=second,
        measure=measure,
        settings=alignment.settings,
        n=alignment.concepts,
        score=rounded(alignment.scores),
        null_mean=rounded(alignment.null_mean),
        null_std=rounded(alignment.null_std),
        p=rounded(alignment.p_values),
        z=rounded(np.nan_to_num(alignment.calibrated)),
        low=None if alignment.low is None else rounded(alignment.low),
        high=None if alignment.high is None else rounded(alignment.high),
    )


def best_pair(subject: Subject, key: Key, alignment: Alignment) -> BestPair:
    """Return the best layer pair, corrected for the choice."""
    model, first, second, measure = key
    around = alignment.interval
    return BestPair(
        model=model,
        first=first,
        second=second,
        measure=measure,
        layers=best_layers(subject, first, second, alignment),
        score=alignment.maximum.score,
        null_max=alignment.maximum.null_mean,
        p=alignment.maximum.p_value,
        calibrated=alignment.maximum.above_threshold,
        low=None if around is None else around.low,
        high=None if around is None else around.high,
    )


def best_layers(subject: Subject, first: str, second: str, alignment: Alignment) -> tuple[str, str]:
    """Return the names of the layers of the best pair."""
    row, column = alignment.best
    return subject.features[first].layers[row], subject.features[second].layers[column]


def primary_row(subject: Subject, key: Key, alignment: Alignment, difference: Contrast | None) -> PrimaryRow:
    """Return the row that readers see first: the best pair of the primary measure."""
    model, first, second, measure = key
    best, around = alignment.maximum, alignment.interval
    return PrimaryRow(
        model=model,
        kind=subject.kind,
        seed=subject.seed,
        first=first,
        second=second,
        measure=measure,
        layers=best_layers(subject, first, second, alignment),
        n=alignment.concepts,
        score=best.score,
        null_mean=best.null_mean,
        null_std=best.null_std,
        p=best.p_value,
        z=best.calibrated or 0.0,
        calibrated=best.above_threshold,
        low=None if around is None else around.low,
        high=None if around is None else around.high,
        minus_untrained=None if difference is None else difference.difference,
        minus_low=None if difference is None else difference.interval.low,
        minus_high=None if difference is None else difference.interval.high,
    )


def differences_to_untrained(
    trained: Sequence[Subject],
    untrained: Sequence[Subject],
    protocol: Protocol,
    measures: Sequence[str] | None = None,
) -> dict[tuple[str, str, str], Contrast]:
    """Return (first, second, measure) -> trained minus untrained, for the measures that vote or for the given ones."""
    found = {}
    for first, second in trained[0].pairs:
        sides = [[subject.paired(first, second) for subject in side] for side in (trained, untrained)]
        for measure in measures or protocol.measures:
            found[first, second, measure] = contrast(
                measure, *sides, draws=protocol.draws, **protocol.settings(measure, len(sides[0][0][0][0]))
            )
    return found


def family_verdicts(
    subjects: Sequence[Subject],
    alignments: dict[Key, Alignment],
    contrasts: dict[tuple[str, str, str], Contrast],
    controls: dict[str, bool],
    protocol: Protocol,
) -> list[PairVerdict]:
    """Apply the rule to each seed of a family, and take the answer of most seeds for each pair of modalities.

    Args:
        subjects: Trained models of one family, one for each seed.
        alignments: Of `align_all`.
        contrasts: Of `differences_to_untrained`, over all seeds of the family.
        controls: Modality -> whether its positive controls were found.
        protocol: The protocol.
    """
    family, verdicts = subjects[0].family, {pair: [] for pair in subjects[0].pairs}
    for subject in subjects:
        tests = {(f"{first} {second}", measure): alignments[subject.name, first, second, measure].maximum.p_value
                 for first, second in subject.pairs for measure in protocol.measures}  # fmt: skip
        corrected = correct_tests(tests)
        for first, second in subject.pairs:
            verdicts[first, second].append(
                decide(
                    {measure: alignments[subject.name, first, second, measure] for measure in protocol.measures},
                    {measure: contrasts[first, second, measure] for measure in protocol.measures},
                    positive_control=controls[first] and controls[second],
                    corrected={measure: corrected[f"{first} {second}", measure] for measure in protocol.measures},
                    question=f"{subject.name}: {first} and {second} are aligned",
                )
            )
    found = []
    for (first, second), seeds in verdicts.items():
        counts = {answer: sum(seed.answer == answer for seed in seeds) for answer in ("yes", "no")}
        answer = next((answer for answer, count in counts.items() if count > len(seeds) / 2), "not supported")
        difference = contrasts[first, second, PRIMARY_MEASURE]
        p = [seed.measures[PRIMARY_MEASURE].corrected_p_value for seed in seeds]
        scores = [seed.measures[PRIMARY_MEASURE].score for seed in seeds]
        found.append(
            PairVerdict(
                kind=family,
                first=first,
                second=second,
                answer=answer,
                sentence=(
                    f"{family}, {first} and {second}: {answer} ({counts['yes']} of {len(seeds)} seeds: yes). Mutual "
                    f"kNN@{difference.settings['k']} {np.mean(scores):.3f} over {difference.concepts} concepts; "
                    f"trained minus untrained {difference.difference:+.3f} [{difference.interval.low:+.3f}, "
                    f"{difference.interval.high:+.3f}], smallest corrected p {min(p):.3g}."
                ),
                p=p,
                minus_untrained=difference.difference,
                minus_low=difference.interval.low,
                minus_high=difference.interval.high,
                votes=[_vote(measure, seeds) for measure in protocol.measures],
            )
        )
    return found


def _vote(measure: str, seeds: Sequence[SeedVerdict]) -> Vote:
    found = [seed.measures[measure] for seed in seeds]
    return Vote(
        measure=measure,
        scores=[one.score for one in found],
        p=[one.corrected_p_value for one in found],
        difference=found[0].difference,
        low=found[0].low,
        high=found[0].high,
        passed=[one.passed for one in found],
    )


def rule_in_words(protocol: Protocol) -> str:
    """Return the rule of the verdict."""
    return f"{RULE} The answer for a pair of modalities is that of most seeds."


def rounded(matrix: np.ndarray) -> list[list[float]]:
    """Return a matrix as lists of rounded numbers."""
    return np.round(np.asarray(matrix, dtype=np.float64), DIGITS).tolist()
