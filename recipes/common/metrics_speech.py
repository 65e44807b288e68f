"""Word and character error rates as `evaluate.Metric`, computed by jiwer without a script from the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import datasets

from recipes.common.metrics import OfflineMetric
from recipes.common.optional import need


class _ErrorRate(OfflineMetric):
    """Edits that turn the predictions into the references, as a share of the words or characters of the references.

    Counts are summed over all pairs before they are divided, so that long references weigh more than short ones. White
    space at the ends and beyond one blank between words is no character. A rate can be above 1.
    """

    value = datasets.Value("string")
    unit: ClassVar[str]

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        counts = count_edits(predictions, references, self.unit)
        edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
        return {f"{self.unit[0]}er": edits / max(counts["units"], 1)}


class WordErrorRate(_ErrorRate):
    """Share of the words of the references that was substituted, deleted or inserted, as {"wer": ...}."""

    unit = "word"


class CharacterErrorRate(_ErrorRate):
    """The same of characters, as {"cer": ...}; a blank between two words is one."""

    unit = "character"


def count_edits(predictions: Sequence[str], references: Sequence[str], unit: str = "word") -> dict[str, int]:
    """Substitutions, deletions and insertions of the best alignments, and the "units" of the references.

    Args:
        predictions, references: pairs of texts.
        unit: "word" or "character".

    Raises:
        MissingDependencyError: if jiwer is not installed.
    """
    jiwer = need("jiwer", "audio")
    texts, truths = ([" ".join(text.split()) for text in part] for part in (predictions, references))
    align = jiwer.process_words if unit == "word" else jiwer.process_characters
    counted = {"substitutions": 0, "deletions": 0, "insertions": 0, "units": 0}
    if truths:
        result = align(truths, texts)
        counted = {key: getattr(result, key) for key in ("substitutions", "deletions", "insertions")}
        counted["units"] = result.hits + result.substitutions + result.deletions
    return counted
