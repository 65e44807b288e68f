"""Where in the network modalities agree: maps over layer pairs, curves by layer, and what each modality knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from d2v_train.alignment.conclusions import Probe
from d2v_train.alignment.report.charts import Curve, colour_scale, heat_map, key, line_chart
from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    details,
    element,
    figure,
    html_table,
    p_value,
    plural,
    section,
)
from d2v_train.alignment.report.media import MODALITY_NAMES, SHORT, pair_name
from d2v_train.alignment.report.views import (
    Page,
    colour_of,
    layer_groups,
    mean_of,
    measure_name,
    same_layers,
    short_layers,
)
from d2v_train.alignment.results import LayerTable, ModelEntry


FAR_ABOVE = 4
"""Standard deviations above chance that colours reach at least."""
MOST_CELLS = 400
"""Largest map of layer pairs that is drawn cell by cell."""


def layer_maps(page: Page) -> Markup | None:
    """Return maps of all layer pairs beside the null and the untrained network, and curves by layer."""
    trained, plain = page.of_kind(page.main_kind), page.twins(page.main_kind)
    primary = _measure(page, page.primary_measure, trained, plain)
    if primary is None:
        return None
    others = [
        name for name in dict.fromkeys(found.measure for found in page.study.tables) if name != page.primary_measure
    ]
    more = [(name, drawn) for name in others if (drawn := _measure(page, name, trained, plain)) is not None]
    seeds = plural(len(trained), f"{page.main_kind} model")
    return section(
        "layers",
        "Where in the network",
        element(
            "p",
            f"Every layer of one modality against every layer of the other, mean of {seeds}. The same colours beside "
            "it: the same network with random weights, and chance, where concepts are permuted. Only what is "
            "brighter in the first map than in both others has been learned. Colours reach at least four standard "
            "deviations above chance. Layer 0 is the input of the shared blocks.",
            class_="lead",
        ),
        primary,
        _best(page),
        [details(f"The same with {measure_name(name)}", drawn) for name, drawn in more],
    )


def _measure(page: Page, measure: str, trained: Sequence[ModelEntry], plain: Sequence[ModelEntry]) -> Markup | None:
    """Return the maps and curves of one measure for every pair of modalities."""
    found, curves = [], []
    for pair in page.pairs:
        own, twins = page.tables(trained, pair, measure), page.tables(plain, pair, measure)
        score = mean_of(own, "score")
        if score is None or score.size > MOST_CELLS:
            continue
        maps = [("trained", score), ("untrained", mean_of(twins, "score")), ("chance", mean_of(own, "null_mean"))]
        maps = [(name, values) for name, values in maps if values is not None]
        low = min(float(values.min()) for _, values in maps)
        # Noise must not fill the colours: they reach as far as what would be far above chance.
        chance, spread = mean_of(own, "null_mean"), mean_of(own, "null_std")
        high = max(float((chance + FAR_ABOVE * spread).max()), *(float(values.max()) for _, values in maps))
        names = [page.models[own[0].model].layers[modality] for modality in pair]
        drawn = [
            heat_map(
                values.tolist(),
                short_layers(names[0]),
                short_layers(names[1]),
                low,
                high,
                title=name,
                alt=_alt(name, values, pair, measure),
                row_axis=f"{SHORT.get(pair[0], pair[0])} layer",
                column_axis=f"{SHORT.get(pair[1], pair[1])} layer",
                column_groups=layer_groups(names[1]),
            )
            for name, values in maps
            if values.shape == score.shape
        ]
        found.append(
            element(
                "div",
                element("h3", pair_name(*pair)),
                element("div", [figure(each) for each in drawn], class_="row"),
                colour_scale(low, high, measure_name(measure, own[0].settings)),
            )
        )
        if (curve := _curve(page, pair, measure, own, twins)) is not None:
            curves.append(figure(curve))
    if curves:
        entries = [
            ("trained", colour_of(page.main_kind)),
            ("untrained", colour_of("untrained")),
            ("chance", "var(--soft)"),
        ]
        by_layer = element("div", curves, class_="row")
        found.append(element("div", element("h3", "At the same layer of both modalities"), key(entries), by_layer))
    return element("div", found) if found else None


def _alt(name: str, values: np.ndarray, pair: tuple[str, str], measure: str) -> str:
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return (
        f"{measure_name(measure)} of all layer pairs of {pair[0]} and {pair[1]}, {name}: from "
        f"{decimal(float(values.min()))} to {decimal(float(values.max()))}, the highest at {pair[0]} layer {row} and "
        f"{pair[1]} layer {column}."
    )


def _curve(
    page: Page, pair: tuple[str, str], measure: str, own: Sequence[LayerTable], twins: Sequence[LayerTable]
) -> Markup | None:
    """Return the measure at the same layer of both modalities, with its interval."""
    names = [page.models[own[0].model].layers[modality] for modality in pair]
    preferred = next((row.layers[1] for row in page.study.primary if (row.first, row.second) == pair), names[1][-1])
    cells = same_layers(*names, preferred)
    if len(cells) < 2:
        return None

    def along(tables: Sequence[LayerTable], field: str) -> list[float] | None:
        values = mean_of(tables, field)
        return None if values is None else [float(values[cell]) for cell in cells]

    series = [Curve("trained", along(own, "score"), colour_of(page.main_kind), along(own, "low"), along(own, "high"))]
    if twins:
        bands = along(twins, "low"), along(twins, "high")
        series.append(Curve("untrained", along(twins, "score"), colour_of("untrained"), *bands))
    series.append(Curve("chance", along(own, "null_mean"), "var(--soft)", dashed=True))
    places = [short_layers(names[0])[row] for row, _ in cells]
    last = len(places) - 1
    alt = "At the same layer of both modalities: " + "; ".join(
        f"{each.name} from {decimal(each.values[0])} at the first to {decimal(each.values[last])} at the last layer"
        for each in series
    )
    return line_chart(series, places, title=pair_name(*pair), alt=alt, axis="layer (bands: 95 % interval)")


def _best(page: Page) -> Markup | None:
    """Return the table of best layer pairs, corrected for the choice."""
    rows = [found for found in page.study.best if found.measure == page.primary_measure]
    if not rows:
        return None
    body = [
        [
            row.model,
            pair_name(row.first, row.second),
            " × ".join(row.layers),
            decimal(row.score),
            decimal(row.null_max),
            decimal(row.calibrated),
            p_value(row.p),
        ]
        for row in rows
    ]
    head = ["model", "modalities", "best layers", "score", "best under permutation", "calibrated", "p of the best"]
    return details(
        "The best layer pair, corrected for having been chosen",
        element(
            "p",
            "The largest of many scores is large by chance. It is therefore compared with the largest score of all "
            "layer pairs under each permutation; calibrated is 0 at the 95 % quantile of these, and 1 for identical "
            "latents.",
        ),
        html_table(head, body),
    )


def probes(page: Page) -> Markup | None:
    """Return how well each modality knows the concepts by itself, layer by layer."""
    found = page.study.probes
    if not found:
        return None
    charts = []
    for modality in page.study.modalities:
        rows = [probe for probe in found if probe.modality == modality]
        layers = list(dict.fromkeys(each.layer for each in rows if page.models[each.model].kind == page.main_kind))
        kinds = dict.fromkeys(name.rpartition(" ")[0] for name in layers)
        for kind in kinds:
            places = [name for name in layers if name.rpartition(" ")[0] == kind]
            title = MODALITY_NAMES.get(modality, modality) + (f", of the {kind}" if len(kinds) > 1 else "")
            charts.append(figure(_probe_chart(page, rows, places, f"{title}, n = {rows[0].n}")))
    if not charts:
        return None
    entries = [page.main_kind, "separate", "untrained", "hand-made"]
    return section(
        "probes",
        "Does each modality know the concepts at all?",
        element(
            "p",
            "Share of examples whose nearest concept, by the mean of the other examples, is their own. Where a "
            "modality cannot tell concepts apart by itself, nothing can be aligned, and a “no” says little about "
            "sharing. Bands are the range over seeds.",
            class_="lead",
        ),
        key([(name, colour_of(name)) for name in entries if page.of_kind(name)] + [("chance", "var(--soft)")]),
        element("div", charts, class_="row"),
    )


def _probe_chart(page: Page, rows: Sequence[Probe], places: Sequence[str], title: str) -> Markup:
    """Return the accuracy in one modality at some layers: mean and range over the seeds of each kind of model."""
    groups = {page.main_kind: page.of_kind(page.main_kind), "untrained": page.twins(page.main_kind)}
    if page.main_kind != "separate":
        groups["separate"] = page.of_kind("separate")
    series = []
    for name, members in groups.items():
        names = {model.name for model in members}
        values = [[each.accuracy for each in rows if each.model in names and each.layer == layer] for layer in places]
        if any(values):
            means = [float(np.mean(part)) if part else None for part in values]
            low, high = ([float(pick(part)) if part else None for part in values] for pick in (min, max))
            series.append(Curve(name, means, colour_of(name), low, high))
    for each in rows:
        if page.models[each.model].kind == "hand-made":
            series.append(Curve(each.model, [each.accuracy] * len(places), colour_of("hand-made"), dashed=True))
    best, top = max(
        ((each.name, value) for each in series for value in each.values if value is not None), key=lambda pair: pair[1]
    )
    series.append(Curve("chance", [rows[0].chance] * len(places), "var(--soft)", dashed=True))
    alt = f"{title}: the highest accuracy is {decimal(top)} ({best}), chance is {decimal(rows[0].chance)}."
    return line_chart(series, short_layers(places), title=title, alt=alt, axis="layer")
