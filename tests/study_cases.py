"""Models of a study whose concept vectors are known, without any network."""

import numpy as np

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.extraction import LayerFeatures


COUNT = 32
NAMES = [f"concept {i:02d}" for i in range(COUNT)]
GROUPS = {name: "animal" if i < 10 else "artifact" for i, name in enumerate(NAMES)}


def vectors(seed, width=8):
    return np.random.default_rng(seed).normal(size=(COUNT, width))


def features(modality, concepts, seed=0, layers=2, noise=0.1, examples=4, names=NAMES, words=False):
    """Layers whose last one holds the concepts, and whose first ones hold noise alone."""
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(names)), examples)
    values = [random.normal(size=(len(index), concepts.shape[1])).astype(np.float32) for _ in range(layers - 1)]
    last = concepts[: len(names)][index] + noise * random.normal(size=(len(index), concepts.shape[1]))
    labels = [f"{names[i]} {j}" for i in range(len(names)) for j in range(examples)]
    kinds = [f"{'word ' if words else 'layer '}{i}" for i in range(layers)]
    return LayerFeatures(modality, list(names), kinds, [*values, last.astype(np.float32)], index, labels)


def subject(name, kind="joint", *, shared=True, seed=0, family=None, modalities=("vision", "audio")):
    """A model whose modalities hold the same concepts, or unrelated ones."""
    parts = {modality: features(modality, vectors(100 if shared else 1000 * seed + i), seed=10 * seed + i)
             for i, modality in enumerate(modalities)}  # fmt: skip
    return Subject(name, kind, family or name.rpartition(" ")[0], seed, parts)
