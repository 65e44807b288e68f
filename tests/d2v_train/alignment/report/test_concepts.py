"""Matrices, neighbours and the question show what the study found, hits and misses alike."""

import base64
import io
import re

import numpy as np
from PIL import Image

from d2v_train.alignment.report.concepts import neighbours, question, similarities
from d2v_train.alignment.report.style import ramp


def test_matrices_are_pictures_of_their_values_in_one_order(page):
    matrix = page.study.similarities[0]
    n = len(matrix.names)
    matrix.matrix = np.linspace(0, 1, n * n).reshape(n, n).tolist()
    content = similarities(page)
    uris = re.findall(r"data:image/png;base64,([^\"]+)", content)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uris[0]))))
    assert pixels.shape == (n, n, 3)
    assert tuple(pixels[0, 0]) == ramp(0) and tuple(pixels[-1, -1]) == ramp(1)
    assert len(uris) == 9  # within and between modalities, and without training
    assert [content.index(f">{name}</text>") for name in matrix.names] == sorted(
        content.index(f">{name}</text>") for name in matrix.names
    )


def test_the_caption_tells_groups_from_one_another(page):
    matrix = next(each for each in page.study.similarities if each.first != each.second and each.model == "joint 0")
    groups = [page.media.concepts[name].group.partition("/")[0] for name in matrix.names]
    same = np.array(groups)[:, None] == np.array(groups)[None]
    values = np.where(same, 0.5, -0.25)
    np.fill_diagonal(values, 0.9)
    matrix.matrix = values.tolist()
    assert "a concept with itself 0.90, same group 0.50, other groups −0.25" in similarities(page)


def test_a_large_matrix_has_groups_instead_of_names(page):
    model = [each for each in page.study.similarities if each.model == "joint 0"]
    for matrix in model:
        matrix.names = [f"{name} {i}" for name in matrix.names for i in range(6)]
        matrix.matrix = np.kron(np.array(matrix.matrix), np.ones((6, 6))).tolist()
    content = similarities(page)
    assert "cat 0" not in content.split("The same without training")[0] and ">other</text>" in content


def test_neighbours_count_hits_and_show_misses(page):
    rows = [each for each in page.study.neighbours if each.model == "joint 0" and each.method == "direct"]
    first = [each for each in rows if (each.first, each.second) == ("vision", "audio")]
    content = neighbours(page)
    assert f"{sum(each.hit for each in first)} of {len(first)} concepts find themselves first" in content
    assert content.count("<details") >= 6 and "itself at rank" in content and "✓" in content
    page.study.neighbours = []
    assert neighbours(page) is None


def test_the_question_shows_every_rank_and_level(page):
    asked = next(each for each in page.study.questions if each.model == "joint 0")
    content = question(page)
    for rank, name in zip(asked.exemplar_ranks, asked.exemplar_names, strict=True):
        assert f"<title>{name}: rank {rank}</title>" in content
    for level in asked.levels:
        assert level.level in content
    assert "untrained joint 0: rank" in content and content.count("<h3>") == 6
    page.study.questions = []
    assert question(page) is None
