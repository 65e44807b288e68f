"""The verdict on alignment, by a rule that is fixed before the concepts are looked at.

"yes" if, in at least `REQUIRED_MEASURES` of the `VERDICT_MEASURES`, both hold: the calibrated p-value is below
`ALPHA` after the correction for layer pairs (max statistic) and for the number of tests (Holm), and the interval of
trained minus untrained lies above zero. "no" only if that fails although the positive control was found and there are
at least `MIN_CONCEPTS_FOR_NO` concepts. "undecided" otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from d2v_train.alignment.layers import Alignment, Contrast
from d2v_train.alignment.nulls import holm


PRIMARY_MEASURE = "mutual_knn"
VERDICT_MEASURES = ("mutual_knn", "cka", "retrieval")
"""One local measure, one global measure, one after a linear map. RSA is close to the CKA, so it has no vote."""
REQUIRED_MEASURES = 2
ALPHA = 0.05
MIN_CONCEPTS_FOR_NO = 30
"""In the positive control of `controls`, random subsets are always found aligned from 30 concepts on, and in half of
the cases with ten."""
RULE = (
    f"Yes if at least {REQUIRED_MEASURES} of {len(VERDICT_MEASURES)} measures ({', '.join(VERDICT_MEASURES)}) have "
    f"p < {ALPHA} after correction for layer pairs and tests, and an interval of trained minus untrained above zero. "
    f"No only with a positive control that was found and {MIN_CONCEPTS_FOR_NO} concepts or more. Undecided otherwise."
)


@dataclass(frozen=True)
class MeasureVerdict:
    """What one measure contributes.

    Attributes:
        score: Largest score over layer pairs.
        calibrated: Calibrated score of it, or None.
        p_value: Corrected for the choice of the layer pair.
        corrected_p_value: Corrected for the number of tests as well.
        difference: Trained minus untrained.
        low, high: Its interval over concepts.
        passed: Whether both conditions hold.
    """

    score: float
    calibrated: float | None
    p_value: float
    corrected_p_value: float
    difference: float
    low: float
    high: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Answer for one pair of modalities.

    Attributes:
        answer: "yes", "no" or "undecided".
        sentence: The answer with its numbers and its limits.
        concepts: n.
        measures: Measure -> what it contributes.
        positive_control: Whether the positive control was found.
        rule: The rule.
    """

    answer: Literal["yes", "no", "undecided"]
    sentence: str
    concepts: int
    measures: dict[str, MeasureVerdict]
    positive_control: bool
    rule: str = RULE


def correct_tests(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Return p-values corrected over all tests of a study, by (pair of modalities, measure).

    Args:
        p_values: Those of `Alignment.maximum`, for the measures in `VERDICT_MEASURES` and every pair of modalities.
    """
    names = {repr(key): key for key in p_values}
    corrected = holm({name: p_values[key] for name, key in names.items()})
    return {names[name]: value for name, value in corrected.items()}


def decide(
    alignments: Mapping[str, Alignment],
    contrasts: Mapping[str, Contrast],
    *,
    positive_control: bool,
    corrected: Mapping[str, float] | None = None,
    question: str = "The modalities are aligned",
) -> Verdict:
    """Apply the rule to one pair of modalities.

    Args:
        alignments: Measure -> alignment of the trained encoder; holds `VERDICT_MEASURES`.
        contrasts: Measure -> trained minus untrained, of the same measures and settings.
        positive_control: Whether the positive control was found with the same measures.
        corrected: Measure -> p-value corrected over all tests of the study (`correct_tests`). Holm over the measures
            of this pair by default.
        question: The claim, as a sentence without its full stop.

    Raises:
        ValueError: If a measure is missing, or alignments and contrasts are not of the same concepts and settings.
    """
    missing = [name for name in VERDICT_MEASURES if name not in alignments or name not in contrasts]
    if missing:
        raise ValueError(f"The verdict needs {', '.join(missing)} as well: the rule names its measures in advance.")
    if corrected is None:
        corrected = holm({name: alignments[name].maximum.p_value for name in VERDICT_MEASURES})
    measures = {}
    for name in VERDICT_MEASURES:
        alignment, difference = alignments[name], contrasts[name]
        if (alignment.concepts, alignment.settings) != (difference.concepts, difference.settings):
            raise ValueError(f"{name}: alignment and contrast differ in concepts or settings; compute both alike.")
        measures[name] = MeasureVerdict(
            score=alignment.maximum.score,
            calibrated=alignment.maximum.calibrated,
            p_value=alignment.maximum.p_value,
            corrected_p_value=corrected[name],
            difference=difference.difference,
            low=difference.interval.low,
            high=difference.interval.high,
            passed=corrected[name] < ALPHA and difference.interval.low > 0,
        )
    passed = [name for name in VERDICT_MEASURES if measures[name].passed]
    n = alignments[PRIMARY_MEASURE].concepts
    if len(passed) >= REQUIRED_MEASURES:
        answer = "yes"
    elif positive_control and n >= MIN_CONCEPTS_FOR_NO:
        answer = "no"
    else:
        answer = "undecided"
    return Verdict(
        answer=answer,
        sentence=_sentence(question, answer, measures, passed, n, positive_control, alignments[PRIMARY_MEASURE]),
        concepts=n,
        measures=measures,
        positive_control=positive_control,
    )


def _sentence(question, answer, measures, passed, n, positive_control, primary: Alignment) -> str:
    first = measures[PRIMARY_MEASURE]
    numbers = (
        f"mutual kNN@{primary.settings['k']} {first.score:.3f} over {n} concepts "
        f"(null {primary.maximum.null_mean:.3f}, corrected p = {first.corrected_p_value:.3g}), "
        f"{first.difference:+.3f} [{first.low:+.3f}, {first.high:+.3f}] against untrained networks; "
        f"{len(passed)} of {len(measures)} measures meet the rule"
    )
    parts = [f"{question}: {answer}. {numbers[0].upper()}{numbers[1:]}."]
    if answer == "yes" and PRIMARY_MEASURE not in passed:
        parts.append("The primary measure is not among them.")
    if answer != "yes":
        if n < MIN_CONCEPTS_FOR_NO:
            parts.append(few_concepts_sentence(n))
        if not positive_control:
            parts.append("The positive control was not found, so a failure of the measurement is not ruled out.")
    return " ".join(parts)


def few_concepts_sentence(n: int) -> str:
    """Return what is said of a result with fewer than `MIN_CONCEPTS_FOR_NO` concepts."""
    return (
        f'With fewer than {MIN_CONCEPTS_FOR_NO} concepts (here {n}) a "no" is not supported: alignment as strong as '
        "that of the positive control would often be missed."
    )
