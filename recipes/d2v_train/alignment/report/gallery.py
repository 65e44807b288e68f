"""Relevance drawn over pictures, recordings and texts, and whether it can be trusted."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np

from d2v_train.alignment.report.charts import Series, line, line_chart, text
from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    drawing,
    element,
    figure,
    p_value,
    section,
    table,
)
from d2v_train.alignment.report.media import NAMES, SMALL
from d2v_train.alignment.report.style import ramp
from d2v_train.alignment.report.views import Page
from d2v_train.inspection.results import Inspection, RelevanceMap
from d2v_train.support.extras import need


SIDE = 160


def relevance(page: Page, found: Inspection) -> Markup | None:
    """Return the gallery of relevance, and the checks of it."""
    if not found.relevance:
        return None
    parts = []
    for modality in found.modalities:
        maps = [each for each in found.relevance if each.item.modality == modality]
        if maps:
            drawn = [DRAWINGS.get(modality, _words)(page, each) for each in maps]
            parts.append(
                element("div", element("h3", NAMES.get(modality, modality)), element("div", drawn, class_="maps"))
            )
    return section(
        "relevance",
        "Which part of an input counts",
        element(
            "p",
            "Integrated gradients of one number that the model computes: its cosine to a concept, the logit of a "
            "concept probe, or a hidden unit. Red raises it, blue lowers it, compared with an input without content "
            "(a grey picture, noise, masked words). Beside it, attention roll-out, which knows no such number.",
            class_="lead",
        ),
        parts,
        _checks(found),
    )


def _caption(each: RelevanceMap) -> str:
    change = f"{decimal(each.baseline, 2)} → {decimal(each.score, 2)}"
    off = abs(each.gap) > 0.1 * max(abs(each.score - each.baseline), 1e-9)
    warning = f" The integral is off by {decimal(each.gap, 2, sign=True)}." if off else ""
    return f"{each.item.concept}: {each.explained}, {change}.{warning}"


def _strongest(values: np.ndarray) -> float:
    """Return the value of full colour: the 99th percentile, so that single elements do not fade the rest."""
    return max(float(np.quantile(np.abs(values), 0.99)), 1e-12)


def _tint(values: np.ndarray) -> str:
    """Return relevance (height, width) as a transparent picture: red above 0, blue below."""
    Image = need("PIL.Image", "vision")
    share = np.clip(values / _strongest(values), -1, 1)
    pixels = np.zeros((*values.shape, 4), dtype=np.uint8)
    pixels[share > 0, :3] = (214, 39, 40)
    pixels[share <= 0, :3] = (31, 99, 190)
    pixels[..., 3] = np.round(215 * np.abs(share))
    return _png(Image.fromarray(pixels, "RGBA"))


def _glow(values: np.ndarray) -> str:
    """Return roll-out as a transparent picture, from dark to bright."""
    Image = need("PIL.Image", "vision")
    shares = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    pixels = np.array([[(*ramp(share), 170) for share in row] for row in shares], dtype=np.uint8)
    return _png(Image.fromarray(pixels, "RGBA"))


def _png(image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _picture(page: Page, each: RelevanceMap) -> Markup:
    values = np.array(each.values).reshape(each.shape)
    grey = "filter:grayscale(1)"
    small = "image-rendering:pixelated" if max(each.shape) <= SMALL else ""
    panels = [("input", None), ("relevance", _tint(values))]
    if len(each.rollout_shape) == 2:
        panels.append(("roll-out", _glow(np.array(each.rollout).reshape(each.rollout_shape))))
    parts = []
    for number, (name, over) in enumerate(panels):
        place = {"x": number * (SIDE / 1.5 + 10), "y": 18, "width": SIDE / 1.5, "height": SIDE / 1.5}
        parts.append(text(place["x"], 12, name))
        style = f"{small};{grey if over else ''}"
        parts.append(element("image", href=each.item.uri, preserveAspectRatio="none", style=style, **place))
        if over:
            parts.append(
                element("image", href=over, preserveAspectRatio="none", style="image-rendering:pixelated", **place)
            )
    width = len(panels) * (SIDE / 1.5 + 10) - 10
    centre = np.unravel_index(int(values.argmax()), values.shape)
    alt = f"Picture of {each.item.concept} with its relevance for the {each.explained}; the strongest lies at "
    across, down = 100 * centre[1] / values.shape[1], 100 * centre[0] / values.shape[0]
    alt += f"{across:.0f} % of the width and {down:.0f} % of the height."
    return figure(drawing(width, SIDE / 1.5 + 20, alt, *parts), _caption(each))


def _recording(page: Page, each: RelevanceMap) -> Markup:
    width, height = 330, 64
    values = np.array(each.values)
    samples = _samples(each.item.uri)
    parts = []
    if samples is not None:
        parts.append(
            element("image", href=_spectrogram(samples), x=0, y=0, width=width, height=60, preserveAspectRatio="none")
        )
    top = 66
    strongest, piece = _strongest(values), width / len(values)
    for number, value in enumerate(values):
        share = max(-1.0, min(1.0, value / strongest))
        colour = "var(--relevant)" if share > 0 else "var(--against)"
        if abs(share) > 0.02:
            style = f"fill:rgb({colour});opacity:{0.75 * abs(share):.2f}"
            parts.append(element("rect", x=number * piece, y=top, width=piece + 0.3, height=height, style=style))
    if samples is not None:
        parts.append(_wave(samples, width, top, height))
    rollout = np.array(each.rollout)
    share = (rollout - rollout.min()) / max(float(np.ptp(rollout)), 1e-12)
    bottom = top + height + 6
    points = " ".join(
        f"{width * (i + 0.5) / len(share):.1f},{bottom + 22 - 20 * value:.1f}" for i, value in enumerate(share)
    )
    parts.append(element("polyline", points=points, fill="none", stroke="var(--soft)", stroke_width=1.5))
    parts += [line(0, bottom + 22, width, bottom + 22), text(0, bottom + 36, "roll-out of attention")]
    peak = 100 * (int(values.argmax()) + 0.5) / len(values)
    alt = f"Spectrogram and waveform of the word {each.item.concept} with its relevance for the {each.explained}: "
    alt += f"the strongest lies at {peak:.0f} % of its duration."
    player = page.media.item(each.item)
    return element("div", figure(drawing(width, bottom + 40, alt, *parts), _caption(each)), player)


def _samples(uri: str) -> np.ndarray | None:
    """Return the samples of a recording in a data URI; None if it cannot be read."""
    if not uri.startswith("data:audio"):
        return None
    soundfile = need("soundfile", "audio")
    try:
        return soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])), dtype="float32")[0]
    except RuntimeError:
        return None


def _wave(samples: np.ndarray, width: float, top: float, height: float, columns: int = 330) -> Markup:
    parts = np.array_split(samples, min(columns, len(samples)))
    highest = max(float(np.abs(samples).max()), 1e-9)
    middle, step = top + height / 2, width / len(parts)
    path = "".join(
        f"M{i * step:.1f} "
        f"{middle - height / 2 * part.max() / highest:.1f}V{middle - height / 2 * part.min() / highest:.1f}"
        for i, part in enumerate(parts)
    )
    return element("path", d=path, fill="none", stroke="var(--ink)", stroke_width=0.9)


def _spectrogram(samples: np.ndarray, window: int = 400, hop: int = 160) -> str:
    """Return the log power of a recording as a grey picture, low frequencies below, up to 8 kHz at 16 kHz."""
    Image = need("PIL.Image", "vision")
    samples = np.pad(samples, (0, max(0, window - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop] * np.hanning(window)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1)))[:, : window // 2]
    bands = power.reshape(len(frames), -1, 4).mean(axis=2)
    level = np.log10(bands + 1e-6 * bands.max() + 1e-12)
    share = (level - level.min()) / max(float(np.ptp(level)), 1e-9)
    buffer = io.BytesIO()
    Image.fromarray(np.round(255 * (1 - 0.9 * share.T[::-1])).astype(np.uint8)).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _words(page: Page, each: RelevanceMap) -> Markup:
    values = np.array(each.values)
    tokens = each.tokens or [str(number) for number in range(len(values))]
    rows = [("relevance", np.clip(values / _strongest(values), -1, 1))]
    if len(each.rollout) == len(tokens):
        rollout = np.array(each.rollout)
        rows.append(("roll-out of attention", rollout / max(float(rollout.max()), 1e-12)))
    drawn = []
    for name, shares in rows:
        spans = []
        for token, share in zip(tokens, shares, strict=True):
            colour = "var(--relevant)" if share > 0 else "var(--against)"
            if name != "relevance":
                colour = "128,128,128"
            style = f"background:rgba({colour},{min(0.75, 0.75 * abs(float(share))):.2f})"
            spans.append(element("span", token, style=style, title=f"{float(share):+.2f} of the strongest"))
        drawn.append(element("p", element("span", f"{name} ", class_="soft"), spans, class_="sentence"))
    return figure(element("div", drawn), _caption(each))


DRAWINGS = {"vision": _picture, "audio": _recording, "text": _words}


def _checks(found: Inspection) -> Markup | None:
    if not found.sanity:
        return None
    charts, rows = [], []
    for modality, sanity in found.sanity.items():
        name = NAMES.get(modality, modality)
        mean = sum(sanity.advantages) / max(len(sanity.advantages), 1)
        series = [
            Series("most relevant first", _fallen(sanity.by_relevance), f"var(--{modality})"),
            Series("in random order", _fallen(sanity.at_random), "var(--soft)", dashed=True),
        ]
        places = [f"{100 * share:.0f} %" for share in sanity.fractions]
        alt = f"{name}: fall of the score while parts are deleted. Most relevant first is ahead of random order by "
        alt += f"{decimal(mean)} on average, {p_value(sanity.p)}."
        charts.append(
            figure(line_chart(series, places, title=name, alt=alt, axis="deleted; dashed: random order", height=180))
        )
        verdict = "better than random order" if sanity.p < 0.05 else "not shown to be better than random order"
        changed = ", ".join(f"{what}: {decimal(value, 2)}" for what, value in sanity.randomised.items()) or "–"
        rows.append([name, sanity.inputs, decimal(mean, 3, sign=True), p_value(sanity.p), verdict, changed])
    head = [
        "modality",
        "inputs",
        "advantage",
        "p",
        "deletion",
        "rank correlation with the relevance of randomised weights",
    ]
    return Markup(
        element("h3", "Can it be trusted?")
        + element(
            "p",
            "Deletion: parts are replaced by content-free input, the most relevant first; the score must fall "
            "sooner than in random order. Randomisation: with new weights, relevance must change; where it stays "
            "(correlation near 1), it shows the input and not what was learned.",
        )
        + element("div", charts, class_="row")
        + table(head, rows)
    )


def _fallen(changes: Sequence[float]) -> list[float]:
    return [-change for change in changes]
