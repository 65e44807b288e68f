"""Properties of words and examples that could align modalities without any meaning, for `partial_rsa`.

Letters, length and frequency of a word, its phonemes (from espeak-ng, where installed), mean colour of its pictures
and mean duration of its recordings.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np

from d2v_train.alignment.concepts import ConceptExamples, ConceptTable
from d2v_train.alignment.extraction import examples_of, read_example
from d2v_train.alignment.nuisance import item_nuisances, name_nuisances
from d2v_train.alignment.speech import PROGRAM
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.tables import SAMPLING_RATE


logger = logging.getLogger(__name__)


def phonemes_of(words: Sequence[str]) -> list[list[str]] | None:
    """Return the phonemes of words in American English, or None without espeak-ng."""
    if shutil.which(PROGRAM) is None:
        logger.warning("espeak-ng is not installed, so phonemes are not among the nuisances.")
        return None
    text = "\n".join(words)
    command = [PROGRAM, "-q", "--ipa", "-v", "en-us", "--sep=_"]
    spoken = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8")
    lines = [line.strip() for line in spoken.stdout.splitlines() if line.strip()]
    if len(lines) != len(words):
        logger.warning("espeak-ng gives %d pronunciations of %d words; phonemes are left out.", len(lines), len(words))
        return None
    # Stress marks are not phonemes.
    return [[sound for sound in re.split(r"[_\s]+", re.sub("[ˈˌ]", "", line)) if sound] for line in lines]


def measure_properties(table: ConceptTable) -> dict[str, dict[str, np.ndarray]]:
    """Return property -> name of a concept -> mean over its examples: colours (3,) and durations in seconds (1,)."""
    found: dict[str, dict[str, list[np.ndarray]]] = {"colour": {}, "duration": {}}
    for modality, kind in (("vision", "colour"), ("audio", "duration")):
        names, examples = examples_of(table, modality)
        for example in examples:
            try:
                record = read_example(modality, example)
            except (BadSample, OSError):
                continue  # reported where features are computed
            if modality == "vision":
                value = np.asarray(record["image"].convert("RGB"), dtype=np.float64).mean(axis=(0, 1)) / 255
            else:
                value = np.array([len(record["audio"]) / SAMPLING_RATE])
            found[kind].setdefault(names[example.concept], []).append(value)
    return {
        kind: {name: np.mean(values, axis=0) for name, values in by_name.items()} for kind, by_name in found.items()
    }


def nuisance_matrices(
    concepts: Sequence[ConceptExamples], measured: dict[str, dict[str, np.ndarray]], wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the (n, n) nuisance distances of concepts, as far as all of them have the property.

    Args:
        concepts: n concepts.
        measured: Of `measure_properties`.
        wanted: Names of nuisances.
    """
    words = [concept.word for concept in concepts]
    counts = [concept.corpus_sentences for concept in concepts]
    matrices = name_nuisances(
        words,
        frequencies=None if None in counts else counts,
        phonemes=phonemes_of(words) if "phonemes" in wanted else None,
    )
    for kind, by_name in measured.items():
        if all(concept.name in by_name for concept in concepts):
            values = np.stack([by_name[concept.name] for concept in concepts])
            matrices |= item_nuisances({kind: values})
    # A property that all concepts share has no distances to partial out.
    return {name: matrix for name, matrix in matrices.items() if name in wanted and matrix.any()}
