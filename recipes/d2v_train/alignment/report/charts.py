"""Charts as inline SVG of at most 330 pixels of width, so that their letters keep their size on a phone.

They are written by hand, and not by a library: plotly, bokeh and altair put megabytes of script into a page and show
nothing without it, and the SVG of matplotlib draws letters as paths, which neither dark mode nor a screen reader can
use. Colours are variables of the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d2v_train.alignment.report.markup import Markup, decimal, drawing, element, join_markup
from d2v_train.alignment.report.style import on_ramp, ramp_colour


WIDTH = 330
MOST_LINES = 30
"""Groups of points whose lines are all drawn; of more, only those that are labelled."""


@dataclass
class Curve:
    """A line of a chart.

    Attributes:
        name: For the key.
        values: One for each place; None where there is none.
        colour: CSS colour.
        low, high: Interval around the values.
        dashed: Whether the line is dashed.
    """

    name: str
    values: Sequence[float | None]
    colour: str
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dashed: bool = False


def text(x: float, y: float, content: Any, anchor: str = "start", class_: str = "tick", **more: Any) -> Markup:
    """Return a text of SVG."""
    return element("text", content, x=float(x), y=float(y), text_anchor=anchor, class_=class_, **more)


def line(x1: float, y1: float, x2: float, y2: float, class_: str | None = "axis", **more: Any) -> Markup:
    """Return a line of SVG."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_, **more)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers between two numbers."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    found = []
    while first * step <= high + step * 1e-6:
        found.append(round(first * step, 10))
        first += 1
    return found


def tick_label(value: float) -> str:
    """Return the label of a tick."""
    return f"{value:g}".replace("-", "−")


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    low: float,
    high: float,
    *,
    title: str,
    alt: str,
    row_axis: str = "",
    column_axis: str = "",
    column_groups: Sequence[tuple[str, int]] = (),
    digits: int = 2,
) -> Markup:
    """Return a heat map; cells bear their number where there is room, and always as a tip.

    Args:
        values: One list for each row.
        rows, columns: Names.
        low, high: Values of the darkest and the brightest colour.
        title: Above the map.
        alt: What it shows, in words.
        row_axis, column_axis: What rows and columns are.
        column_groups: Names of neighbouring columns and their number, for example of two kinds of layers.
        digits: Of the numbers.
    """
    left, top = 22 + 6.2 * max(map(len, rows)), 42
    size = min(44.0, (WIDTH - left - 6) / max(len(columns), 1))
    width, height = left + size * len(columns) + 6, top + size * len(rows)
    parts = [text(0, 14, title, class_="name"), text(left + size * len(columns) / 2, 32, column_axis, "middle")]
    if row_axis:
        middle = top + size * len(rows) / 2
        parts.append(text(9, middle, row_axis, "middle", transform=f"rotate(-90 9 {middle:.1f})"))
    for y, (name, row) in enumerate(zip(rows, values, strict=True)):
        parts.append(text(left - 6, top + (y + 0.5) * size + 4, name, "end"))
        for x, value in enumerate(row):
            share = 0.0 if high <= low else (value - low) / (high - low)
            tip = element("title", f"{row_axis} {name}, {column_axis} {columns[x]}: {decimal(value)}".strip())
            place = {"x": left + x * size, "y": top + y * size}
            parts.append(element("rect", tip, **place, width=size - 1, height=size - 1, rx=2, fill=ramp_colour(share)))
            if size >= 30:
                label = decimal(value, digits).replace("0.", ".", 1)
                middle = (left + (x + 0.5) * size - 0.5, top + (y + 0.5) * size + 4)
                parts.append(text(*middle, label, "middle", fill=on_ramp(share), style=f"fill:{on_ramp(share)}"))
    step = max(1, math.ceil(24 / size)) if len(columns) > 1 else 1
    for x in range(0, len(columns), step):
        parts.append(text(left + (x + 0.5) * size, height + 14, columns[x], "middle"))
    first = 0
    for name, count in column_groups:
        start, end = left + first * size + 2, left + (first + count) * size - 3
        parts.append(element("path", d=f"M{start:.1f} {height + 20}v3H{end:.1f}v-3", class_="axis"))
        parts.append(text((start + end) / 2, height + 35, name, "middle"))
        first += count
    return drawing(width, height + (38 if column_groups else 18), alt, *parts)


def colour_scale(low: float, high: float, label: str) -> Markup:
    """Return the key of the colours of heat maps."""
    stops = [element("stop", offset=f"{5 * i}%", stop_color=ramp_colour(i / 20)) for i in range(21)]
    gradient = element("linearGradient", stops, id="ramp")
    return drawing(
        WIDTH,
        34,
        f"Colours from dark, {decimal(low)}, to bright, {decimal(high)}: {label}",
        element("defs", gradient),
        element("rect", x=0, y=0, width=160, height=10, rx=2, fill="url(#ramp)"),
        text(0, 26, decimal(low, 2)),
        text(160, 26, decimal(high, 2), "end"),
        text(172, 10, label),
    )


def line_chart(
    series: Sequence[Curve], places: Sequence[str], *, title: str, alt: str, axis: str = "", height: float = 200
) -> Markup:
    """Return lines over named places, each with its interval as a band."""
    left, top, right = 40, 28, 10
    inner, bottom = WIDTH - left - right, height - 34
    numbers = [v for s in series for part in (s.values, s.low or [], s.high or []) for v in part if v is not None]
    low, high = min([0.0, *numbers]), max([*numbers, 1e-6])
    high += 0.05 * (high - low)

    def at(place: int, value: float) -> tuple[float, float]:
        across = inner * (place / max(len(places) - 1, 1)) if len(places) > 1 else inner / 2
        return left + across, bottom - (bottom - top) * (value - low) / (high - low)

    parts = [text(0, 14, title, class_="name")]
    for tick in ticks(low, high):
        y = at(0, tick)[1]
        parts += [line(left, y, left + inner, y), text(left - 6, y + 4, tick_label(tick), "end")]
    for place, name in enumerate(places):
        if len(places) <= 9 or place % 2 == 0:
            parts.append(text(at(place, low)[0], bottom + 16, name, "middle"))
    parts.append(text(left + inner / 2, height, axis, "middle"))
    for each in series:
        known = [i for i, value in enumerate(each.values) if value is not None]
        if each.low and each.high:
            band = [i for i in known if each.low[i] is not None and each.high[i] is not None]
            around = [at(i, each.high[i]) for i in band] + [at(i, each.low[i]) for i in reversed(band)]
            if band:
                parts.append(element("polygon", points=_points(around), fill=each.colour, opacity=0.14))
        points = [at(i, each.values[i]) for i in known]
        dash = "5 4" if each.dashed else None
        parts.append(
            element(
                "polyline",
                points=_points(points),
                fill="none",
                stroke=each.colour,
                stroke_width=2,
                stroke_dasharray=dash,
            )
        )
        for i, (x, y) in zip(known, points, strict=True):
            tip = element("title", f"{each.name}, {places[i]}: {decimal(each.values[i])}")
            parts.append(element("circle", tip, cx=x, cy=y, r=3, fill=each.colour))
    return drawing(WIDTH, height + 4, alt, *parts)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


@dataclass
class Estimate:
    """A row of an interval chart.

    Attributes:
        name: Of the row.
        value: A point.
        colour: CSS colour.
        low, high: Its interval.
        null: Mean and standard deviation of the null, drawn as a grey bar of two standard deviations.
        tip: What the row says, in words.
    """

    name: str
    value: float
    colour: str
    low: float | None = None
    high: float | None = None
    null: tuple[float, float] | None = None
    tip: str = ""


def interval_chart(
    rows: Sequence[Estimate], *, title: str, alt: str, axis: str = "", most: float | None = None
) -> Markup:
    """Return points with their intervals, one below the other, on one axis from 0 (or below) to `most` (or above)."""
    left, top, step = 14 + 6.4 * max(len(row.name) for row in rows), 30, 24
    inner, bottom = WIDTH - left - 12, top + step * len(rows)
    numbers = [row.value for row in rows] + [v for row in rows for v in (row.low, row.high) if v is not None]
    numbers += [row.null[0] + 2 * sign * row.null[1] for row in rows if row.null for sign in (-1, 1)]
    low, high = min([*numbers, 0.0]), max([*numbers, 1e-6 if most is None else most])
    pad = 0.04 * (high - low)
    low, high = low - (pad if low < 0 else 0), high + pad

    def across(value: float) -> float:
        return left + inner * (value - low) / (high - low)

    parts = [text(0, 14, title, class_="name")]
    for tick in ticks(low, high, 4):
        x = across(tick)
        strong = {"style": "stroke:var(--soft)"} if tick == 0 else {}
        parts += [line(x, top - 6, x, bottom, **strong), text(x, bottom + 14, tick_label(tick), "middle")]
    parts.append(text(left + inner / 2, bottom + 30, axis, "middle"))
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5) - 3
        inside = [element("title", row.tip or f"{row.name}: {decimal(row.value)}")]
        if row.null:
            mean, spread = row.null
            x1, x2 = across(max(low, mean - 2 * spread)), across(mean + 2 * spread)
            box = {"x": x1, "y": y - 6, "width": max(x2 - x1, 1), "height": 12}
            inside.append(element("rect", **box, rx=2, fill="var(--line)"))
            inside.append(line(across(mean), y - 6, across(mean), y + 6, None, stroke="var(--soft)"))
        if row.low is not None and row.high is not None:
            inside.append(
                line(
                    across(row.low),
                    y,
                    across(row.high),
                    y,
                    None,
                    stroke=row.colour,
                    stroke_width=2.5,
                    stroke_linecap="round",
                )
            )
        inside.append(element("circle", cx=across(row.value), cy=y, r=4.5, fill=row.colour))
        inside.append(text(left - 8, y + 4, row.name, "end", class_="label"))
        parts.append(element("g", *inside))
    return drawing(WIDTH, bottom + 36, alt, *parts)


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[tuple[str, str, str]], *, title: str, alt: str
) -> Markup:
    """Return one bar for each row, divided into shares.

    Args:
        rows: Name of the row, and its shares, which sum up to 1.
        parts: Name, CSS colour, and colour of the letters upon it, of each share.
        title, alt: As for other charts.
    """
    left, top, step = 12 + 6.6 * max(len(name) for name, _ in rows), 28, 26
    inner = WIDTH - left - 6
    drawn = [text(0, 14, title, class_="name")]
    for number, (name, shares) in enumerate(rows):
        x, y = left, top + step * number
        drawn.append(text(left - 8, y + 13, name, "end"))
        for (part, colour, ink), share in zip(parts, shares, strict=True):
            share = max(0.0, share)
            tip = element("title", f"{name}, {part}: {100 * share:.1f} %")
            drawn.append(element("rect", tip, x=x, y=y, width=max(inner * share - 0.5, 0), height=18, fill=colour))
            if share >= 0.11:
                drawn.append(
                    text(
                        x + inner * share / 2,
                        y + 13,
                        f"{100 * share:.0f} %",
                        "middle",
                        style=f"fill:{ink};font-weight:600",
                    )
                )
            x += inner * share
    return drawing(WIDTH, top + step * len(rows), alt, *drawn)


def histogram(
    counts: Sequence[tuple[str, Sequence[float], str, bool]], *, title: str, alt: str, axis: str, ends: tuple[str, str]
) -> Markup:
    """Return histograms over equal bins as outlines, one over the other.

    Args:
        counts: Name, counts, CSS colour, and whether it is filled, of each histogram.
        title, alt, axis: As for other charts.
        ends: Labels of the first and the last edge.
    """
    left, top, bottom, inner = 8, 28, 138, WIDTH - 16
    highest = max((max(values, default=0) for _, values, _, _ in counts), default=0) or 1
    parts = [text(0, 14, title, class_="name"), line(left, bottom, left + inner, bottom)]
    for name, values, colour, filled in counts:
        points = [(left, bottom)]
        for number, value in enumerate(values):
            y = bottom - (bottom - top) * value / highest
            points += [(left + inner * number / len(values), y), (left + inner * (number + 1) / len(values), y)]
        points.append((left + inner, bottom))
        style = {"fill": colour, "opacity": 0.35} if filled else {"fill": "none"}
        tip = element("title", f"{name}: {', '.join(f'{value:g}' for value in values)}")
        parts.append(element("polygon", tip, points=_points(points), stroke=colour, stroke_width=1.5, **style))
    parts += [text(left, bottom + 14, ends[0]), text(left + inner, bottom + 14, ends[1], "end")]
    return drawing(WIDTH, bottom + 34, alt, *parts, text(left + inner / 2, bottom + 30, axis, "middle"))


@dataclass
class Point:
    """A point of a scatter chart; points of one `group` are joined by a thin line, unless there are many groups."""

    x: float
    y: float
    colour: str
    tip: str
    group: str = ""
    label: str = ""


def scatter(points: Sequence[Point], *, title: str, alt: str, axes: tuple[str, str]) -> Markup:
    """Return points in a plane of equal units on both axes."""
    top, size = 26, WIDTH - 12
    xs, ys = [point.x for point in points], [point.y for point in points]
    span = max(max(xs) - min(xs), max(ys) - min(ys), 1e-9) * 1.08
    centre = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2
    height = min(size, max(140.0, size * (max(ys) - min(ys)) * 1.16 / span))

    def at(point: Point) -> tuple[float, float]:
        x = 6 + size / 2 + size * (point.x - centre[0]) / span
        return x, top + height / 2 - size * (point.y - centre[1]) / span

    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.group:
            groups.setdefault(point.group, []).append(point)
    drawn = [text(0, 14, title, class_="name")]
    drawn.append(element("rect", x=6, y=top, width=size, height=height, rx=4, class_="axis"))
    for members in groups.values():
        marked = any(member.label for member in members)
        if len(groups) > MOST_LINES and not marked:
            continue
        style = "stroke:var(--ink);stroke-width:1.5" if marked else "stroke:var(--line)"
        closed = [*members, members[0]] if len(members) > 2 else members
        drawn.append(element("polyline", points=_points([at(each) for each in closed]), fill="none", style=style))
    for point in sorted(points, key=lambda point: bool(point.label)):
        x, y = at(point)
        radius = 5 if point.label else 3
        drawn.append(element("circle", element("title", point.tip), cx=x, cy=y, r=radius, fill=point.colour))
    labelled = {point.group or point.label: point for point in points if point.label}
    for point in labelled.values():
        x, y = at(point)
        left = x > WIDTH * 0.75
        drawn.append(text(x + (-8 if left else 8), y + 4, point.label, "end" if left else "start", class_="name"))
    drawn.append(text(6 + size / 2, top + height + 16, f"{axes[0]} · {axes[1]}", "middle"))
    return drawing(WIDTH, top + height + 22, alt, *drawn)


def rank_strip(ranks: Sequence[int], total: int, *, colour: str, alt: str, names: Sequence[str] = ()) -> Markup:
    """Return one dot for each rank on an axis from 1 to `total`, dots of equal ranks one over the other."""
    left, inner = 10, WIDTH - 24
    height: dict[int, int] = {}
    bin_width = max(1, math.ceil(total * 9 / inner))
    drawn = []
    for number, rank in enumerate(ranks):
        place = (rank - 1) // bin_width
        level = height.get(place, 0)
        height[place] = level + 1
        tip = element("title", f"{names[number]}: rank {rank}" if number < len(names) else f"rank {rank}")
        x = left + inner * (place * bin_width + bin_width / 2 - 0.5) / max(total - 1, 1)
        drawn.append((x, level, tip))
    top = 10 + 9 * max(height.values(), default=1)
    dots = [
        element("circle", tip, cx=min(x, left + inner), cy=top - 9 * level - 6, r=4, fill=colour)
        for x, level, tip in drawn
    ]
    middle = left + inner / 2
    return drawing(
        WIDTH,
        top + 22,
        alt,
        line(left, top, left + inner, top),
        line(middle, top - 4, middle, top + 4),
        text(left, top + 17, "1 (nearest)"),
        text(middle, top + 17, "chance", "middle"),
        text(left + inner, top + 17, total, "end"),
        *dots,
    )


def key(entries: Sequence[tuple[str, str]]) -> Markup:
    """Return the key of a chart: name and CSS colour of each entry."""
    return element(
        "div",
        [
            element("span", element("span", class_="swatch", style=f"background:{colour}", aria_hidden="true"), name)
            for name, colour in entries
        ],
        class_="key",
    )


def lamp(passed: bool | None) -> Markup:
    """Return a lamp: a green disc with a tick, a red one with a cross, an amber one with a question mark."""
    state = {
        True: ("good", "M4 7.3 6.2 9.6 10.2 4.8"),
        False: ("bad", "M4.6 4.6 9.4 9.4 M9.4 4.6 4.6 9.4"),
        None: ("open", ""),
    }
    colour, mark = state[passed]
    sign = element("path", d=mark, fill="none", stroke="var(--card)", stroke_width=1.8, stroke_linecap="round")
    parts = [element("circle", cx=7, cy=7, r=7, fill=f"var(--{colour})"), sign if mark else None]
    return element(
        "svg", join_markup(parts), viewBox="0 0 14 14", width=14, height=14, class_="lamp", aria_hidden="true"
    )
