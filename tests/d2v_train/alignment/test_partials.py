"""RSA given nuisances: alignment through word length vanishes, alignment beyond it stays."""

import numpy as np
from study_cases import COUNT, NAMES, features, vectors

from d2v_train.alignment.comparisons import Subject
from d2v_train.alignment.concepts import ConceptExamples, ConceptTable
from d2v_train.alignment.partials import partial_all
from d2v_train.alignment.protocol import Protocol


PROTOCOL = Protocol(permutations=99, draws=20, nuisances=("length",))


def rows_of(first, second, tmp_path):
    lengths = np.random.default_rng(5).integers(3, 30, COUNT)
    concepts = [ConceptExamples(name, "x" * length, examples={"vision": [], "audio": []})
                for name, length in zip(NAMES, lengths, strict=True)]  # fmt: skip
    angle = np.stack([np.cos(lengths / 10), np.sin(lengths / 10)], axis=1)
    parts = {"vision": features("vision", first(angle), seed=1, noise=0.02),
             "audio": features("audio", second(angle), seed=2, noise=0.02)}  # fmt: skip
    for part in parts.values():
        part.standardised = False
    model = Subject("joint 0", "joint", "joint", 0, parts)
    return partial_all(ConceptTable(tmp_path, concepts), [model], PROTOCOL)


def test_alignment_through_length_alone_vanishes(tmp_path):
    (row,) = rows_of(lambda angle: angle, lambda angle: angle, tmp_path)
    assert row.nuisances == ["length"]
    assert row.rsa > 0.9 and row.p < 0.05
    assert abs(row.partial) < row.rsa


def test_alignment_beyond_length_stays(tmp_path):
    (row,) = rows_of(lambda angle: vectors(0), lambda angle: vectors(0), tmp_path)
    assert row.rsa > 0.9 and row.partial > 0.9 and row.partial_p < 0.05
    assert abs(row.alone["length"][0]) < 0.3
