"""Inside an encoder of several modalities: variance by term, space, and hidden units."""

from __future__ import annotations

from d2v_train.alignment.report.charts import Estimate, Point, histogram, interval_chart, key, scatter, stacked_bars
from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    element,
    figure,
    html_table,
    listed,
    p_value,
    section,
)
from d2v_train.alignment.report.media import MODALITY_NAMES, SHORT, pair_name
from d2v_train.alignment.report.views import Page
from d2v_train.inspection.results import Inspection, SharedUnit, UnitSummary
from d2v_train.inspection.variance import Shares


SHOWN_TERMS = (
    ("modality", "modality"),
    ("position", "position"),
    ("concept", "concept, in common"),
    ("own_concept", "concept, in one modality"),
    ("residual", "the rest"),
)


def variance(page: Page, found: Inspection) -> Markup | None:
    """Return how the variance of the states divides into modality, position and concept, layer by layer."""
    if not found.variance:
        return None
    parts = [(words, f"var(--{name})", f"var(--on-{name})") for name, words in SHOWN_TERMS]
    charts = [figure(_bars(found.layers, found.variance, parts, "trained"))]
    if found.untrained_variance:
        charts.append(figure(_bars(found.layers, found.untrained_variance, parts, "untrained")))
    rows = []
    for name, own in zip(found.layers, found.variance, strict=True):
        chance = (
            "–" if own.concept_chance is None else f"{_percent(own.concept_chance)} (to {_percent(own.concept_upper)})"
        )
        rows.append([name, *(_percent(getattr(own, term)) for term, _ in SHOWN_TERMS), chance, p_value(own.concept_p)])
    head = ["layer", *(words for _, words in SHOWN_TERMS), "“in common” by chance", "p"]
    return section(
        "variance",
        "What the states are made of",
        element(
            "p",
            "The variance of the token states of the shared blocks, divided exactly: shares of a layer sum up to "
            "100 %, and every modality has the same weight. “In common” is what a concept adds to the states of all "
            "modalities alike; “in one modality” is what tells concepts apart there and differs elsewhere. Some of "
            "the former comes by chance, so the table has its level under renamed concepts.",
            class_="lead",
        ),
        key([(words, colour) for words, colour, _ in parts]),
        element("div", charts, class_="row"),
        html_table(head, rows),
    )


def _bars(layers: list[str], shares: list[Shares], parts: list[tuple[str, str, str]], title: str) -> Markup:
    rows = [
        (name, [getattr(each, term) for term, _ in SHOWN_TERMS]) for name, each in zip(layers, shares, strict=True)
    ]
    last = shares[-1]
    alt = f"Shares of variance by layer, {title}. In the last layer: " + ", ".join(
        f"{words} {_percent(getattr(last, term))}" for term, words in SHOWN_TERMS
    )
    return stacked_bars(rows, parts, title=title, alt=alt + ".")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def space(page: Page, found: Inspection) -> Markup | None:
    """Return the modality gap by layer, and principal components of the concepts in the last layer."""
    if not found.spaces:
        return None
    last = found.spaces[-1]
    pairs = list(last.gap)
    rows = [[each.layer, *(decimal(each.gap[pair], 2) for pair in pairs)] for each in found.spaces]
    focus = {question.concept for question in page.study.questions}
    focus = [name for name in last.names if name in focus] or last.names[:1]
    charts = [
        figure(
            _scatter(found, last.points, last.explained, focus, "as they are"),
            "Concepts as means of their examples. If modalities lie apart, this is the gap.",
        ),
        figure(
            _scatter(found, last.centred, last.centred_explained, focus, "each modality's mean removed"),
            "A line joins a concept in all modalities: short lines among long distances would be alignment.",
        ),
    ]
    return section(
        "space",
        "Where modalities lie",
        element(
            "p",
            f"The first two principal components of the concepts in {last.layer}. The gap is the distance between "
            "the means of two modalities, in units of how far examples lie from the mean of their own: above 1, "
            "modalities are further apart than their examples.",
            class_="lead",
        ),
        key([(MODALITY_NAMES.get(name, name), f"var(--{name})") for name in found.modalities]),
        element(
            "div",
            charts,
            html_table(["layer", *(pair_name(*pair.split(" ")) for pair in pairs)], rows, "modality gap"),
            class_="row",
        ),
    )


def _scatter(found: Inspection, points: dict, explained: list[float], focus: list[str], title: str) -> Markup:
    names = found.concepts
    drawn = [
        Point(
            x, y, f"var(--{modality})", f"{name}, {SHORT.get(modality, modality)}", name, name if name in focus else ""
        )
        for modality, rows in points.items()
        for name, (x, y) in zip(names, rows, strict=True)
    ]
    axes = tuple(f"component {number}: {100 * share:.0f} %" for number, share in enumerate(explained, 1))
    alt = f"{len(names)} concepts in {listed(list(points))} on two principal components, {title}."
    return scatter(drawn, title=title, alt=alt, axes=axes)


def units(page: Page, found: Inspection) -> Markup | None:
    """Return the number of shared units against chance, their table, dominance and ablation."""
    summary = found.units
    if summary is None:
        return None
    head = ["modalities", "shared units", "by chance", "p", *(["untrained"] if found.untrained else [])]
    rows = [
        [
            listed([SHORT.get(name, name) for name in group.modalities]),
            group.count,
            f"{decimal(group.expected, 1)} (95 %: up to {group.upper:g})",
            p_value(group.p),
            *([", ".join(map(str, group.untrained))] if found.untrained else []),
        ]
        for group in summary.shared
    ]
    selective = [_selective(summary, name) for name in found.modalities]
    return section(
        "units",
        "Units that respond to a concept in several modalities",
        element(
            "p",
            "Hidden units of the feed-forward parts, after the activation function, mean over tokens. A unit’s "
            "concept is chosen on half of the examples, and how well the unit tells it from all others is measured "
            f"on the other half: the area under the ROC curve must reach {decimal(summary.threshold, 2)} and survive "
            f"a false discovery rate of {summary.level:g} over all units. A shared unit is selective for the same "
            f"concept in each modality. Chance: {summary.permutations:,} times, concepts of one modality are renamed.",
            class_="lead",
        ),
        element("p", f"Selective in one modality: {listed(selective)}."),
        html_table(head, rows),
        _unit_table(page, summary),
        _ablation(summary),
        _dominance(found, summary),
    )


def _selective(summary: UnitSummary, name: str) -> str:
    plain = summary.untrained_selective.get(name)
    beside = f" (untrained: {listed([str(count) for count in plain])})" if plain else ""
    return f"{summary.selective[name]:,} of {summary.total:,} for {MODALITY_NAMES.get(name, name)}{beside}"


def _unit_table(page: Page, summary: UnitSummary) -> Markup | None:
    if not summary.table:
        return element("p", "No unit is shared, so that there are no examples to show.")
    return Markup(
        element(
            "h3", f"Shared units with the examples that excite them most ({len(summary.table)} of {summary.ablated})"
        )
        + "".join(_unit(page, unit) for unit in summary.table)
    )


def _unit(page: Page, unit: SharedUnit) -> Markup:
    scores = [
        element("div", f"{SHORT.get(name, name)}: AUC {decimal(value, 2)}", class_=name)
        for name, value in unit.auc.items()
    ]
    examples = [
        element("div", [page.media.item(item, _activation(item.value)) for item in items], class_="examples")
        for items in unit.examples.values()
    ]
    heading = element(
        "div",
        element("strong", unit.concept),
        element("div", f"block {unit.block}, unit {unit.unit}", class_="soft"),
        scores,
    )
    return element("div", heading, element("div", examples), class_="unit")


def _activation(value: float) -> Markup:
    return element("span", f"{value:.3g}".replace("-", "−"), class_="soft")


def _ablation(summary: UnitSummary) -> Markup | None:
    if not summary.ablation:
        return None
    rows = []
    for name, found in summary.ablation.items():
        mean = sum(found.random) / max(len(found.random), 1)
        spread = (sum((value - mean) ** 2 for value in found.random) / max(len(found.random), 1)) ** 0.5
        lost = found.intact - found.silenced
        tip = f"{name}: {lost:.1f} points lost, {found.intact - mean:.1f} ± {spread:.1f} without random units"
        rows.append(
            Estimate(SHORT.get(name, name), lost, f"var(--{name})", null=(found.intact - mean, spread), tip=tip)
        )
    said = "; ".join(
        f"{SHORT.get(name, name)}: from {found.intact:.1f} % to {found.silenced:.1f} %, {p_value(found.p)}"
        for name, found in summary.ablation.items()
    )
    units = f"All {summary.ablated} shared units are" if summary.ablated > 1 else "The shared unit is"
    chart = interval_chart(
        rows,
        title="accuracy lost",
        alt=f"Accuracy of a concept probe without the shared units. {said}.",
        axis="points; grey: random units, mean ± 2 sd",
    )
    return Markup(
        element("h3", "Are they used?")
        + element(
            "p",
            f"{units} set to zero. A linear probe of the concepts then loses accuracy, and the grey bar is what it "
            f"loses without random sets of as many units of the same blocks. {said[:1].upper()}{said[1:]}.",
        )
        + figure(chart)
    )


def _dominance(found: Inspection, summary: UnitSummary) -> Markup | None:
    charts = []
    for name, counts in summary.dominance.items():
        plain = summary.untrained_dominance.get(name)
        series = [(f"trained, {name}", counts, f"var(--{name})", True)]
        if plain:
            series.append(("untrained", plain, "var(--soft)", False))
        most = sum(counts[int(0.9 * len(counts)) :])
        alt = f"{most} of {sum(counts)} units have more than 90 % of their energy in {MODALITY_NAMES.get(name, name)}."
        charts.append(
            figure(
                histogram(
                    series,
                    title=MODALITY_NAMES.get(name, name),
                    alt=alt,
                    axis="share of a unit’s energy",
                    ends=("0", "all"),
                )
            )
        )
    if not charts:
        return None
    return Markup(
        element("h3", "Which modality do units serve?")
        + element(
            "p",
            "Units by the share of their energy (mean square) that lies in one modality. Two heaps at the ends are "
            "units of one modality; a heap in the middle is shared machinery. The outline is the untrained network.",
        )
        + element("div", charts, class_="row")
    )
