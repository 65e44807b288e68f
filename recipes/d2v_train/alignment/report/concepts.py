"""Concepts one by one: how they lie to each other, their neighbours across modalities, and the question."""

from __future__ import annotations

import base64
import io

import numpy as np

from d2v_train.alignment.report.charts import WIDTH, Estimate, interval_chart, rank_strip, text
from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    details,
    drawing,
    element,
    figure,
    listed,
    p_value,
    plural,
    section,
    table,
)
from d2v_train.alignment.report.media import NAMES, SHORT
from d2v_train.alignment.report.style import ramp
from d2v_train.alignment.report.views import Page, colour_of
from d2v_train.alignment.results import Neighbours, Question, Similarities
from d2v_train.support.extras import need


CARDS = 5
"""Concepts whose neighbours are shown with examples, of hits and of misses, for each direction."""
SHOWN_NEIGHBOURS = 4


def similarities(page: Page) -> Markup | None:
    """Return the matrices of similarities of concepts, side by side in the same order."""
    model = page.main_model
    found = [matrix for matrix in page.study.similarities if model and matrix.model == model.name]
    within = [matrix for matrix in found if matrix.first == matrix.second]
    between = [matrix for matrix in found if matrix.first != matrix.second]
    if not found:
        return None
    twin = model.untrained_twin
    plain = [each for each in page.study.similarities if each.model == twin and each.first == each.second]
    return section(
        "similarities",
        "How concepts lie to each other",
        element(
            "p",
            f"Cosine similarity of all pairs of concepts in {model.name}, in one order for all matrices: by group, "
            "then by name. If modalities share concepts, the same pairs are bright in each of them. Between two "
            "modalities, a bright diagonal means that a concept is nearest to itself.",
            class_="lead",
        ),
        element("div", [figure(_matrix(page, matrix), _note(page, matrix)) for matrix in within], class_="row"),
        [
            element("h3", "Between modalities"),
            element(
                "p", "The mean of each modality was removed first, as it is far larger than what tells concepts apart."
            ),
            element("div", [figure(_matrix(page, matrix), _note(page, matrix)) for matrix in between], class_="row"),
        ]
        if between
        else None,
        details(
            f"The same without training ({twin})",
            element("div", [figure(_matrix(page, matrix), _note(page, matrix)) for matrix in plain], class_="row"),
        )
        if plain
        else None,
    )


def _top_group(page: Page, name: str) -> str:
    """Return the widest group of a concept; "" if it is unknown."""
    return page.media.concepts[name].group.partition("/")[0] if name in page.media.concepts else ""


def _groups(page: Page, names: list[str]) -> list[tuple[str, int, int]]:
    """Return (top group, first row, end) of the runs of concepts of one top group."""
    tops = [_top_group(page, name) for name in names]
    starts = [i for i in range(len(tops)) if i == 0 or tops[i] != tops[i - 1]]
    return [(tops[start], start, end) for start, end in zip(starts, [*starts[1:], len(tops)], strict=True)]


def _matrix(page: Page, matrix: Similarities) -> Markup:
    """Return a matrix as a picture with brackets of groups; a small one has the names of its concepts."""
    values = np.array(matrix.matrix, dtype=float)
    number, left, top = len(values), 74, 24
    size = WIDTH - left
    off = values[~np.eye(number, dtype=bool)] if matrix.first == matrix.second else values
    low, high = (float(np.quantile(off, q)) for q in (0.01, 0.99)) if off.size else (0.0, 1.0)
    title = f"{SHORT.get(matrix.first, matrix.first)} × {SHORT.get(matrix.second, matrix.second)}"
    parts = [text(0, 12, f"{title}, {matrix.layers[0]}", class_="name")]
    place = {"x": left, "y": top, "width": size, "height": size}
    parts.append(
        element(
            "image",
            href=_pixels(values, low, high),
            preserveAspectRatio="none",
            style="image-rendering:pixelated",
            **place,
        )
    )
    step = size / number
    if number <= 24:
        parts += [text(left - 6, top + (i + 0.5) * step + 4, name, "end") for i, name in enumerate(matrix.names)]
    else:
        for name, start, end in _groups(page, matrix.names):
            first, last = top + start * step + 1, top + end * step - 1
            parts.append(
                element(
                    "path", d=f"M{left - 4} {first:.1f}h-3V{last:.1f}h3", class_="axis", style="stroke:var(--soft)"
                )
            )
            if (end - start) * step >= 9:
                parts.append(text(left - 11, (first + last) / 2 + 4, name or "other", "end"))
    return drawing(WIDTH, top + size, _matrix_alt(page, matrix, values), *parts)


def _pixels(values: np.ndarray, low: float, high: float) -> str:
    Image = need("PIL.Image", "vision")
    shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    colours = np.array([ramp(step / 255) for step in range(256)], dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours[np.round(255 * shares).astype(int)]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _matrix_alt(page: Page, matrix: Similarities, values: np.ndarray) -> str:
    same, other, own = _group_means(page, matrix, values)
    kind = f"Similarity of {len(values)} concepts between {matrix.first} and {matrix.second}"
    said = [f"{kind}: mean {decimal(same)} within groups" if same is not None else kind]
    said.append(f"{decimal(other)} between groups" if other is not None else "")
    said.append(f"{decimal(own)} of a concept with itself" if matrix.first != matrix.second else "")
    return ", ".join(filter(None, said)) + "."


def _group_means(page: Page, matrix: Similarities, values: np.ndarray):
    groups = np.array([_top_group(page, name) for name in matrix.names])
    same, own = groups[:, None] == groups[None], np.eye(len(values), dtype=bool)

    def mean(mask: np.ndarray) -> float | None:
        return float(values[mask].mean()) if mask.any() else None

    return mean(same & ~own), mean(~same), mean(own)


def _note(page: Page, matrix: Similarities) -> str:
    same, other, own = _group_means(page, matrix, np.array(matrix.matrix, dtype=float))
    parts = [f"same group {decimal(same, 2)}", f"other groups {decimal(other, 2)}"]
    if matrix.first != matrix.second:
        parts.insert(0, f"a concept with itself {decimal(own, 2)}")
    return "Mean similarity: " + ", ".join(parts) + "."


def neighbours(page: Page) -> Markup | None:
    """Return nearest concepts across modalities with examples, hits and misses."""
    model = page.main_model
    found = [each for each in page.study.neighbours if model and each.model == model.name]
    if not found:
        return None
    asked = {question.concept for question in page.study.questions}
    parts = []
    for pair in dict.fromkeys((each.first, each.second) for each in found):
        rows = [each for each in found if (each.first, each.second) == pair]
        methods = list(dict.fromkeys(each.method for each in rows))
        method = "map" if "map" in methods else methods[0]
        rows = [each for each in rows if each.method == method]
        hits = [each for each in rows if each.hit]
        misses = sorted(
            (each for each in rows if not each.hit), key=lambda each: (each.concept not in asked, each.rank)
        )
        count, half = len(rows), CARDS // 2
        number = len(page.study.concepts)
        near = [*hits[:CARDS], *misses[: max(half, CARDS - len(hits))]]
        far = [each for each in misses[::-1] if each not in near][:1]
        title = f"From {NAMES.get(pair[0], pair[0])} to {NAMES.get(pair[1], pair[1])}"
        how = "after a linear map learned on other concepts" if method == "map" else "without any map"
        parts.append(
            details(
                Markup(
                    element("strong", title) + f": {len(hits)} of {count} concepts find themselves first; chance is "
                    f"{count / max(number, 1):.0f}"
                ),
                element(
                    "p", f"Nearest concepts {how}. Hits first, then near misses, then the one that is furthest off."
                ),
                element("div", [_neighbour_row(page, each) for each in [*near, *far]]),
                details(
                    "All concepts",
                    table(
                        ["concept", "rank of itself", "nearest", "similarity"],
                        [
                            [
                                each.concept,
                                each.rank,
                                ", ".join(each.neighbours),
                                ", ".join(decimal(v, 2) for v in each.similarities),
                            ]
                            for each in rows
                        ],
                    ),
                ),
                open_=len(parts) == 0,
            )
        )
    return section(
        "neighbours",
        "Nearest neighbours across modalities",
        element(
            "p",
            f"Each concept of one modality, and the concepts of another that lie nearest to it in {model.name}. The "
            "examples are some of those that the concept is the mean of.",
            class_="lead",
        ),
        parts,
    )


def _neighbour_row(page: Page, each: Neighbours) -> Markup:
    verdict = "hit" if each.hit else f"itself at rank {each.rank}"
    query = page.media.example(
        each.concept, each.first, note=element("span", verdict, class_="hit" if each.hit else "soft")
    )
    shown = [
        page.media.example(
            name,
            each.second,
            note=element(
                "span",
                ("✓ " if name == each.concept else "") + decimal(value, 2),
                class_="hit" if name == each.concept else "soft",
            ),
        )
        for name, value in list(zip(each.neighbours, each.similarities, strict=True))[:SHOWN_NEIGHBOURS]
    ]
    return element("div", element("div", query, class_="query"), shown, class_="neighbours")


def question(page: Page) -> Markup | None:
    """Return where the examples of one concept rank that concept seen from another modality."""
    asked = page.study.questions
    if not asked:
        return None
    concepts = list(dict.fromkeys(each.concept for each in asked))
    parts = []
    for concept in concepts:
        mine = [each for each in asked if each.concept == concept]
        groups = []
        for pair in dict.fromkeys((each.first, each.second) for each in mine):
            rows = [each for each in mine if (each.first, each.second) == pair and each.method == _method(mine)]
            shown = [each for each in rows if page.main_model and each.model == page.main_model.name] or rows[:1]
            shown += [each for each in rows if page.main_model and each.model == page.main_model.untrained_twin]
            groups.append(_question_pair(page, concept, pair, shown, rows))
        examples = [page.media.example(concept, modality) for modality in page.study.modalities]
        parts += [element("div", examples, class_="row"), groups]
    return section(
        "question",
        f"The question: {listed(concepts)}",
        element(
            "p",
            "Each example of the concept in one modality ranks all concepts, as they are seen from the other "
            "modality, by similarity. Rank 1 means that the concept itself is the nearest. By chance, ranks spread "
            "evenly.",
            class_="lead",
        ),
        parts,
    )


def _method(rows: list[Question]) -> str:
    methods = {each.method for each in rows}
    return "map" if "map" in methods else next(iter(methods))


def _question_pair(
    page: Page, concept: str, pair: tuple[str, str], shown: list[Question], rows: list[Question]
) -> Markup:
    title = f"{NAMES.get(pair[0], pair[0])} of “{concept}” among {NAMES.get(pair[1], pair[1])}"
    charts = []
    for each in shown:
        kind = page.models[each.model].kind if each.model in page.models else "encoder"
        alt = f"{title}, {each.model}: {plural(len(each.exemplar_ranks), 'example')} at ranks "
        alt += f"{', '.join(map(str, sorted(each.exemplar_ranks)))} of {each.n}."
        caption = (
            f"{each.model}: rank {each.mean_rank:.0f} of {each.n} for the mean of the examples ({p_value(each.p)}). "
        )
        caption += f"Nearest: {', '.join(each.nearest[:3])}."
        strip = rank_strip(each.exemplar_ranks, each.n, colour=colour_of(kind), alt=alt, names=each.exemplar_names)
        charts.append(figure(strip, caption))
    body = [
        [
            each.model,
            level.level,
            level.concepts,
            decimal(level.mean_percentile, 2),
            f"{decimal(level.null_mean, 2)} ± {decimal(level.null_std, 2)}",
            p_value(level.p),
        ]
        for each in rows
        for level in each.levels
    ]
    head = ["model", "concepts", "number", "mean percentile", "chance", "p"]
    first = shown[0]
    kind = page.models[first.model].kind if first.model in page.models else "encoder"
    levels = [
        Estimate(
            f"{level.level} ({level.concepts})",
            level.mean_percentile,
            colour_of(kind),
            null=(level.null_mean, level.null_std),
            tip=f"{level.level}: {decimal(level.mean_percentile, 2)}, {p_value(level.p)}",
        )
        for level in first.levels
    ]
    alt = f"{title}, {first.model}: mean percentile of " + ", ".join(
        f"{level.level} {decimal(level.mean_percentile, 2)} ({p_value(level.p)})" for level in first.levels
    )
    near = interval_chart(levels, title="how near are …", alt=alt, axis="mean percentile, 1 is the nearest", most=1.0)
    return element(
        "div",
        element("h3", title[:1].upper() + title[1:]),
        element("div", charts, figure(near), class_="row"),
        details("All models", table(head, body)) if rows else None,
    )
