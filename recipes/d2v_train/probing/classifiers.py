"""Probes: accuracy of simple classifiers on frozen features.

kNN votes among neighbours, the linear probe is logistic regression on all labels, the few-label probe on ten per
class. Every function takes NumPy arrays and returns accuracy in PERCENT; the result depends on its arguments alone.
`features` may also be SciPy sparse (TF-IDF), which is used as it is.

Legend: N samples, D features, C classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from d2v_train.probing.settings import DEFAULT_FEW, DEFAULT_NEIGHBOURS, DEFAULT_SEEDS


REGULARISATION_GRID = (0.003, 0.03, 0.3, 3.0)
"""Values of scikit-learn's C tried on the held-out part of the training features."""
SPARSE_REGULARISATION_GRID = (0.1, 1.0, 10.0, 100.0)
"""The same for sparse features: TF-IDF values are small, so the values above would shrink their weights to zero."""
FEW_LABEL_C = 1.0
"""Fixed for the few-label probe: ten labels per class are too few to choose it."""
HELD_OUT_SHARE = 0.2
MAX_FOLDS = 5
MAX_ITERATIONS = 300
PATIENCE = 2
"""Consecutive drops of the held-out score after which weaker, slower regularisation is not tried."""


@dataclass(frozen=True)
class FewLabelResult:
    """Accuracy of the few-label probe in percent.

    Attributes:
        mean: Mean over the draws.
        std: Standard deviation over the draws (0 for one draw).
        per_seed: One accuracy per draw, in the order of the seeds.
    """

    mean: float
    std: float
    per_seed: tuple[float, ...]


def standardise_features(train, test):
    """Scale every feature to zero mean and unit variance, with the statistics of `train`.

    Args:
        train: (N, D) array, or a sparse matrix, which is returned unchanged (TF-IDF rows have unit norm already).
        test: (N', D), of the same kind.

    Returns:
        The pair, float32 where dense.
    """
    if sparse.issparse(train):
        return train, test
    # Sums over many samples in float32 would make the scale depend on the order of the samples.
    scaler = StandardScaler().fit(np.asarray(train, dtype=np.float64))
    return scaler.transform(train).astype(np.float32), scaler.transform(test).astype(np.float32)


def knn_accuracy(
    train_features, train_labels, test_features, test_labels, *, k: int = DEFAULT_NEIGHBOURS, chunk: int = 1024
) -> float:
    """Return the accuracy of a majority vote among the `k` nearest training samples by cosine similarity.

    Features are standardised on the training part first. A tie between classes goes to the one with the larger sum of
    similarities.

    Args:
        train_features, test_features: (N, D), (N', D).
        train_labels, test_labels: (N,), (N',) integers.
        k: Number of neighbours that vote, at most N.
        chunk: Test samples compared at a time, which bounds the memory to chunk x N similarities.

    Raises:
        ValueError: If shapes do not match, a part is empty, or `k` is below 1.
    """
    train_labels, test_labels = _check(train_features, train_labels, test_features, test_labels)
    if k < 1:
        raise ValueError(f"The number of neighbours k is {k}; give at least 1.")
    k = min(k, len(train_labels))
    train, test = standardise_features(train_features, test_features)
    train, test = _unit_rows(train), _unit_rows(test)
    classes, train_index = np.unique(train_labels, return_inverse=True)
    correct = 0
    for start in range(0, len(test_labels), chunk):
        similarity = test[start : start + chunk] @ train.T
        similarity = similarity.toarray() if sparse.issparse(similarity) else similarity
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        rows = np.arange(len(nearest))[:, None]
        votes = np.zeros((len(nearest), len(classes)))
        # A similarity lies in [-1, 1]: divided by 4k, all k together weigh less than one vote.
        np.add.at(votes, (rows, train_index[nearest]), 1.0 + similarity[rows, nearest] / (4 * k))
        correct += int((classes[votes.argmax(axis=1)] == test_labels[start : start + chunk]).sum())
    return 100.0 * correct / len(test_labels)


def linear_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    grid: Sequence[float] | None = None,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> float:
    """Return the accuracy of multinomial logistic regression on standardised features.

    The regularisation is chosen on held-out samples of the training part, then the model is fitted from scratch on
    all of it. The test part is not used for the choice.

    Args:
        train_features, test_features: (N, D), (N', D).
        train_labels, test_labels: (N,), (N',) integers.
        grid: Candidates for scikit-learn's C, in any order; with a single one nothing is held out. None for
            `REGULARISATION_GRID`, or the one for sparse features.
        groups: (N,) names, for example of speakers, if the test groups are not in the training part; see
            `held_out_masks`.
        seed: Seed of the draw of the held-out samples.

    Raises:
        ValueError: If shapes do not match, a part is empty, the training part has one class only, or `grid` is empty.
    """
    train_labels, test_labels = _check(train_features, train_labels, test_features, test_labels)
    _require_classes(train_labels)
    if grid is None:
        grid = SPARSE_REGULARISATION_GRID if sparse.issparse(train_features) else REGULARISATION_GRID
    if not len(grid):
        raise ValueError("The regularisation grid is empty; give at least one value of C.")
    best = float(grid[0])
    if len(grid) > 1:
        best = _choose_c(train_features, train_labels, grid, held_out_masks(train_labels, groups, seed))
    train, test = standardise_features(train_features, test_features)
    return 100.0 * float(_fit(train, train_labels, best).score(test, test_labels))


def draw_few(labels, per_class: int, seed: int) -> np.ndarray:
    """Draw the same number of samples of every class.

    Args:
        labels: (N,) integers.
        per_class: Labels per class; a class with fewer samples gives all of them.
        seed: Seed of the draw.

    Returns:
        Sorted, distinct int64 indices into `labels`.

    Raises:
        ValueError: If `per_class` is below 1.
    """
    if per_class < 1:
        raise ValueError(f"The number of labels per class is {per_class}; give at least 1.")
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    chosen = [generator.permutation(np.flatnonzero(labels == c))[:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def few_label_accuracy(
    train_features,
    train_labels,
    test_features,
    test_labels,
    *,
    per_class: int = DEFAULT_FEW,
    seeds: Sequence[int] = DEFAULT_SEEDS,
) -> FewLabelResult:
    """Measure logistic regression trained on `per_class` labels per class, over several stratified draws.

    Features are standardised on the whole training part: only labels are few, not samples.

    Args:
        train_features, test_features: (N, D), (N', D).
        train_labels, test_labels: (N,), (N',) integers.
        per_class: Labels per class.
        seeds: Seeds of the draws.

    Raises:
        ValueError: If shapes do not match, a part is empty, there is one class only, or no seed.
    """
    train_labels, test_labels = _check(train_features, train_labels, test_features, test_labels)
    if not len(seeds):
        raise ValueError("The few-label probe has no seed; give at least one.")
    _require_classes(train_labels)
    train, test = standardise_features(train_features, test_features)
    scores = []
    for seed in seeds:
        chosen = draw_few(train_labels, per_class, seed)
        scores.append(100.0 * float(_fit(train[chosen], train_labels[chosen], FEW_LABEL_C).score(test, test_labels)))
    return FewLabelResult(float(np.mean(scores)), float(np.std(scores)), tuple(scores))


def chance_accuracy(train_labels, test_labels) -> float:
    """Return the accuracy of always predicting the most frequent training label (the smallest of several)."""
    values, counts = np.unique(np.asarray(train_labels), return_counts=True)
    return 100.0 * float((np.asarray(test_labels) == values[counts.argmax()]).mean())


def _choose_c(features, labels: np.ndarray, grid: Sequence[float], masks: list[np.ndarray]) -> float:
    """Return the candidate with the best held-out accuracy; of several, the strongest regularisation.

    Every candidate starts from zero weights. Starting from those of the previous one saves a third of the iterations,
    but makes weak regularisation stop early, which lowers the accuracy of untrained encoders by up to two points.
    """
    masks = [held_out for held_out in masks if held_out.any() and len(np.unique(labels[~held_out])) > 1]
    candidates = sorted(float(c) for c in grid)
    scores: list[float] = []
    for c in candidates:
        total = 0.0
        for held_out in masks:
            fit, valid = standardise_features(features[~held_out], features[held_out])
            total += _fit(fit, labels[~held_out], c).score(valid, labels[held_out])
        scores.append(total)
        if len(scores) > PATIENCE and (np.diff(scores[-PATIENCE - 1 :]) < 0).all():
            break
    return candidates[int(np.argmax(scores))]


def _fit(features, labels: np.ndarray, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # The accuracy is stable long before the tolerance is reached.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=MAX_ITERATIONS, tol=1e-3).fit(features, labels)


def held_out_masks(labels, groups: Sequence[str | None] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Choose the held-out samples for the choice of the regularisation.

    Args:
        labels: (N,) integers.
        groups: (N,) names, for example of speakers. A single speaker is not representative: several are all held out
            in turn, in at most five parts of whole groups.
        seed: Seed of the draw.

    Returns:
        One (N,) boolean mask per fold: a stratified fifth without groups, else one mask per part.
    """
    labels = np.asarray(labels)
    generator = np.random.default_rng(seed)
    names = np.asarray([str(group) for group in groups]) if groups is not None else np.asarray([])
    distinct = np.unique(names)
    if len(distinct) > 1:
        parts = np.array_split(generator.permutation(distinct), min(MAX_FOLDS, len(distinct)))
        return [np.isin(names, part) for part in parts]
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out[members[: int(len(members) * HELD_OUT_SHARE)]] = True
    return [held_out]


def _require_classes(labels: np.ndarray) -> None:
    if len(np.unique(labels)) < 2:
        raise ValueError(f"All {len(labels)} training labels are {labels[0]}; a probe needs at least two classes.")


def _unit_rows(features):
    if sparse.issparse(features):
        norms = np.sqrt(np.asarray(features.multiply(features).sum(axis=1))).ravel()
        return sparse.diags_array(1.0 / np.maximum(norms, 1e-12)) @ features
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _check(train_features, train_labels, test_features, test_labels) -> tuple[np.ndarray, np.ndarray]:
    train_labels, test_labels = np.asarray(train_labels), np.asarray(test_labels)
    for name, features, labels in (
        ("training", train_features, train_labels),
        ("test", test_features, test_labels),
    ):
        if features.shape[0] == 0:
            raise ValueError(f"The {name} part of the probe is empty; check the splits and groups.")
        if features.shape[0] != len(labels):
            raise ValueError(f"The {name} part has {features.shape[0]} features but {len(labels)} labels.")
        if not sparse.issparse(features) and not np.isfinite(features).all():
            raise ValueError(
                f"The {name} features contain NaN or infinite values; the encoder diverged or got unusable input."
            )
    if train_features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"Training features have {train_features.shape[1]} columns, test features {test_features.shape[1]}; "
            "both must come from the same model and layer."
        )
    return train_labels, test_labels
