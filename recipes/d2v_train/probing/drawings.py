"""Drawings of masked samples and of nearest neighbours, made by matplotlib, which is imported on first use."""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import audio_utils

from d2v_train.support.extras import need


logger = logging.getLogger(__name__)

COLUMNS = 100
"""Characters per line of text."""
LINES = 7
"""Lines shown per text."""
FONT_SIZE = 7.5
DPI = 110
FONT = "DejaVu Sans Mono"
"""Font of texts, which comes with matplotlib; others of the machine are asked for characters that it lacks."""
NO_GLYPH = "□"
"""What is drawn for a character that no font has."""
HIDDEN = "#d55e00"
"""Colour of hidden tokens."""


def _figure(width: float, height: float) -> Any:
    return need("matplotlib.figure", "plots").Figure(figsize=(width, height), dpi=DPI)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def picture(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (C, H, W) of any range as (H, W) or (H, W, 3) in [0, 1]."""
    least, most = float(pixels.min()), float(pixels.max())
    pixels = (pixels - least) / max(most - least, 1e-6)
    return pixels[0] if len(pixels) != 3 else pixels.transpose(1, 2, 0)


def spectrogram(samples: np.ndarray, stride: int, whole: bool = False) -> np.ndarray:
    """Return the log-magnitudes (frequencies, frames) of a waveform, one column per frame of the model.

    Args:
        samples: (S,).
        stride: Samples between two frames.
        whole: Up to half the sampling rate instead of a quarter, above which speech has little energy.
    """
    width = max(2 * stride, 400)
    window = audio_utils.window_function(width, "hann", periodic=False)
    padded = np.pad(samples, (0, width - 1))
    magnitudes = audio_utils.spectrogram(padded, window, width, stride, power=1.0, center=False)
    return np.log(magnitudes[: width // 2 if whole else width // 4] + 1e-2)


BAND_ROWS = 24
"""Rows of a picture for each band of tokens."""


def banded_spectrogram(samples: np.ndarray, stride: int, rate: int, bands: Sequence[float]) -> np.ndarray:
    """Return the same (`BAND_ROWS` * bands, frames) with bands of equal height, whatever their width in Hz.

    Args:
        samples, stride: as of `spectrogram`.
        rate: samples a second.
        bands: frequencies in Hz between which they lie, from the lowest.
    """
    values = spectrogram(samples, stride, whole=True)
    places = (np.arange(BAND_ROWS * (len(bands) - 1)) + 0.5) / BAND_ROWS
    frequencies = np.interp(places, np.arange(len(bands)), bands)
    return values[(frequencies / (rate / 2) * len(values)).astype(int).clip(max=len(values) - 1)]


def draw_image_masks(path: Path, images: Sequence[np.ndarray], masks: np.ndarray, names: Sequence[str]) -> Path:
    """Draw each image beside the parts that the student sees, for its first masks.

    Args:
        path: PNG to write.
        images: Images, (C, H, W) each.
        masks: (B, M, rows, columns) bool, True = hidden.
        names: Names of the images.
    """
    shown = min(masks.shape[1], 3)
    figure = _figure(1.5 * (1 + shown), 1.6 * len(images) + 0.4)
    axes = figure.subplots(len(images), 1 + shown, squeeze=False)
    for row, image, own, name in zip(axes, images, masks, names, strict=True):
        pixels = picture(image)
        size = pixels.shape[:2]
        grey = {"cmap": "gray", "vmin": 0, "vmax": 1}
        for place, axis in enumerate(row):
            axis.imshow(pixels, interpolation="nearest", **grey)
            axis.set_xticks([]), axis.set_yticks([])
            if place:
                hidden = np.kron(own[place - 1], np.ones((size[0] // own.shape[1], size[1] // own.shape[2])))
                axis.imshow(_overlay(hidden, 0.92), interpolation="nearest")
        row[0].set_ylabel(name, fontsize=7)
    axes[0, 0].set_title("image", fontsize=9)
    for place in range(shown):
        axes[0, 1 + place].set_title(f"mask {place + 1}: {masks[:, place].mean():.0%} hidden", fontsize=9)
    figure.subplots_adjust(0.06, 0.01, 0.99, 0.96, wspace=0.08, hspace=0.08)
    return _save(figure, path)


def _overlay(hidden: np.ndarray, strength: float) -> np.ndarray:
    """Return RGBA colours (H, W, 4) that cover the hidden parts."""
    red, green, blue = (int(HIDDEN[place : place + 2], 16) / 255 for place in (1, 3, 5))
    colours = np.empty((*hidden.shape, 4))
    colours[..., 0], colours[..., 1], colours[..., 2], colours[..., 3] = red, green, blue, hidden * strength
    return colours


def draw_audio_masks(
    path: Path,
    waves: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    stride: int,
    rate: int,
    bands: Sequence[float] | None = None,
) -> Path:
    """Draw spectrograms with the hidden frames of one mask covered, and the mean of all masks as a strip below.

    Args:
        path: PNG to write.
        waves: Waveforms, (S,) each.
        masks: (M, F, T) bool each, over frequency bands (F may be 1) and frames.
        names: Names of the recordings.
        stride: Samples between two frames.
        rate: Sampling rate in Hz.
        bands: Band edges in Hz, ascending; None for one band.
    """
    figure = _figure(9, 1.6 * len(waves) + 0.4)
    grid = figure.add_gridspec(len(waves), 1, left=0.08, right=0.98, top=0.96, bottom=0.07, hspace=0.5)
    for place, (wave, own, name) in enumerate(zip(waves, masks, names, strict=True)):
        upper, lower = grid[place].subgridspec(2, 1, height_ratios=[5, 1], hspace=0.1).subplots()
        seconds, end = len(wave) / rate, own.shape[2] * stride / rate
        values, top = spectrogram(wave, stride), rate / 4000
        if bands is not None:
            values, top = banded_spectrogram(wave, stride, rate, bands), len(bands) - 1
            upper.set_yticks(range(len(bands)), [f"{edge / 1000:.2g}" for edge in bands])
        upper.imshow(values, origin="lower", aspect="auto", cmap="gray_r", extent=(0, seconds, 0, top))
        cover = {"origin": "lower", "aspect": "auto", "extent": (0, end, 0, top)}
        upper.imshow(_overlay(own[0].astype(float), 0.55), interpolation="nearest", **cover)
        upper.set_title(f"{name}: {own[0].mean():.0%} of {own[0].size} tokens hidden", fontsize=8, loc="left")
        upper.set_ylabel("kHz", fontsize=7)
        strip = _overlay(own.mean(axis=1), 1.0)
        lower.imshow(strip, aspect="auto", interpolation="nearest", extent=(0, end, 0, 1))
        lower.set_yticks([]), upper.set_xticks([])
        lower.set_ylabel(f"{len(own)} masks", fontsize=6, rotation=0, ha="right", va="center")
        for axis in (upper, lower):
            axis.set_xlim(0, seconds)
            axis.tick_params(labelsize=7)
    lower.set_xlabel("seconds", fontsize=8)
    return _save(figure, path)


def draw_text_masks(path: Path, texts: Sequence[Sequence[str]], masks: Sequence[np.ndarray]) -> Path:
    """Draw texts token by token, with a coloured background behind hidden tokens.

    Args:
        path: PNG to write.
        texts: Human-readable tokens of each text.
        masks: (T,) bool each.
    """
    axis = _page(COLUMNS + 2, len(texts) * (LINES + 2))
    families, lacking = fonts_for(token for tokens in texts for token in tokens)
    font = {"fontsize": FONT_SIZE, "va": "center", "family": families, "parse_math": False}
    for place, (tokens, mask) in enumerate(zip(texts, masks, strict=True)):
        top = place * (LINES + 2) + 0.7
        axis.text(1, top, f"{mask.mean():.0%} of {len(mask)} tokens hidden", **font, color="gray")
        line, start = 1, 0
        for token, hidden in zip(tokens, mask, strict=True):
            token = token.translate(lacking)
            width = text_width(token)
            if start + width > COLUMNS:
                line, start = line + 1, 0
            if line > LINES:
                break
            if hidden:
                ends, height = (1 + start, 1 + start + width), top + line
                axis.fill_between(ends, height - 0.45, height + 0.45, color=HIDDEN, alpha=0.45, lw=0)
            axis.text(1 + start, top + line, token, **font)
            start += width
    return _save(axis.figure, path)


def text_width(text: str) -> int:
    """Return the columns that a text takes: two for each wide character, such as those of Chinese."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def first_columns(text: str, columns: int = COLUMNS) -> str:
    """Return the start of a text that fits into a number of columns."""
    kept = text[:columns]
    while text_width(kept) > columns:
        kept = kept[:-1]
    return kept


def fonts_for(texts: Iterable[str]) -> tuple[list[str], dict[int, str]]:
    """Return the fonts that together have the characters of texts, and a table that replaces those that none has."""
    manager = need("matplotlib.font_manager", "plots")
    families = [FONT]
    missing = {ord(letter) for text in texts for letter in text} - _characters(manager.findfont(FONT))
    for entry in manager.fontManager.ttflist if missing else ():
        # The fonts of last resort have boxes instead of glyphs.
        if entry.name.startswith("Last Resort") or (entry.weight, entry.style) != (400, "normal"):
            continue
        if missing & _characters(entry.fname):
            families.append(entry.name)
            missing -= _characters(entry.fname)
    letters = sorted(chr(code) for code in missing if chr(code).isalnum())
    if letters:
        _tell_missing("".join(letters[:10]))
    return families, dict.fromkeys(missing, NO_GLYPH)


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """Return the code points of a font file."""
    return frozenset(need("matplotlib.ft2font", "plots").FT2Font(path).get_charmap())


@functools.cache
def _tell_missing(letters: str) -> None:
    logger.warning(
        "No font of this machine has the characters %s: pictures of texts show %s instead. Install one that has them, "
        "such as Noto Sans CJK for Chinese.",
        letters,
        NO_GLYPH,
    )


def _page(columns: int, lines: int) -> Any:
    """Return an axis that fills a figure with room for `lines` of `columns` characters."""
    # The width of a character is 0.602 of the font size, in whole pixels.
    figure = _figure(columns * round(0.602 * FONT_SIZE * DPI / 72) / DPI, 0.2 * lines + 0.1)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set_xlim(0, columns)
    axis.set_ylim(lines, 0)
    return axis


def show_image(axis: Any, pixels: np.ndarray) -> None:
    """Show pixels (C, H, W)."""
    axis.imshow(picture(pixels), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def show_spectrogram(axis: Any, values: np.ndarray) -> None:
    """Show log-magnitudes (frequencies, frames)."""
    axis.imshow(values, origin="lower", aspect="auto", cmap="gray_r")


CHANNELS_SHOWN = 12
"""Most channels of an array that are drawn: the first ones."""


def series_of(array: np.ndarray) -> np.ndarray:
    """Return the lines (places, channels) that stand for an array (sides ..., C): of several sides, those along the
    longest one through the middle of the others."""
    longest = int(np.argmax(array.shape[:-1]))
    middle = tuple(slice(None) if axis == longest else array.shape[axis] // 2 for axis in range(array.ndim - 1))
    return array[middle][:, :CHANNELS_SHOWN]


def show_array(axis: Any, array: np.ndarray) -> None:
    """Show an array (sides ..., C): one of two sides as the picture of its first channel, others as lines."""
    if array.ndim == 3:
        axis.imshow(array[..., 0], aspect="auto", cmap="gray", interpolation="nearest")
    else:
        _draw_lines(axis, series_of(array))


def _draw_lines(axis: Any, lines: np.ndarray) -> None:
    """Draw lines (places, channels) one above the other, on one scale."""
    step = 4 * float(np.median(lines.std(axis=0))) or 1.0
    heights = -step * np.arange(lines.shape[1])
    axis.plot(lines - lines.mean(axis=0) + heights, color="black", linewidth=0.4)
    axis.set_ylim(heights[-1] - step, step)
    axis.set_xlim(0, max(len(lines) - 1, 1))


def draw_series_masks(
    path: Path, arrays: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]
) -> Path:
    """Draw arrays with the hidden tokens of one mask covered, and the mean of all masks as a strip below.

    Tokens of arrays of several sides lie along a curve through them: they are drawn in the order of the tokens.

    Args:
        path: PNG to write.
        arrays: (sides ..., C) each.
        masks: (M, T) bool each, True = hidden.
        names: Names of the arrays.
    """
    figure = _figure(9, 2.2 * len(arrays) + 0.4)
    grid = figure.add_gridspec(len(arrays), 1, left=0.08, right=0.98, top=0.96, bottom=0.05, hspace=0.4)
    for place, (array, own, name) in enumerate(zip(arrays, masks, names, strict=True)):
        upper, lower = grid[place].subgridspec(2, 1, height_ratios=[6, 1], hspace=0.1).subplots()
        show_array(upper, array)
        left, right = upper.get_xlim()
        bottom, top = upper.get_ylim()
        cover = {"aspect": "auto", "interpolation": "nearest", "zorder": 2}
        if array.ndim == 2:
            upper.imshow(_overlay(own[:1].astype(float), 0.45), extent=(left, right, bottom, top), **cover)
        upper.set_title(f"{name}: {own[0].mean():.0%} of {own[0].size} tokens hidden", fontsize=8, loc="left")
        lower.imshow(_overlay(own.mean(axis=0, keepdims=True), 1.0), extent=(left, right, 0, 1), **cover)
        lower.set_ylabel(f"{len(own)} masks", fontsize=6, rotation=0, ha="right", va="center")
        for axis in (upper, lower):
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
        upper.set_xticks([])
    return _save(figure, path)


def draw_neighbours(
    path: Path,
    samples: Sequence[Any],
    names: Sequence[str],
    order: np.ndarray,
    similarity: np.ndarray,
    show: Callable[[Any, Any], None],
    labels: Sequence[str] | None = None,
) -> Path:
    """Draw rows of a sample and its nearest neighbours, with cosine similarities.

    Args:
        path: PNG to write.
        samples: Samples of the run.
        names: Captions of the samples in the first column.
        order: (rows, 1 + k) indices, the sample itself first.
        similarity: (rows, 1 + k).
        show: `show(axis, sample)` draws one of them.
        labels: Captions of the neighbours; None for none.
    """
    lines = max((text.count("\n") + 1 for text in labels or () if text), default=0)
    rows, columns = order.shape
    figure = _figure(1.5 * columns, (1.5 + 0.12 * lines) * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, indices, likeness in zip(axes, order, similarity, strict=True):
        for place, (axis, index, value) in enumerate(zip(row, indices, likeness, strict=True)):
            axis.set_xticks([]), axis.set_yticks([])
            show(axis, samples[index])
            text = names[index] if place == 0 else labels[index] if labels else ""
            axis.set_xlabel(f"{text}\n{value:.2f}".strip() if place else text, fontsize=7)
    axes[0, 0].set_title("sample", fontsize=9)
    axes[0, 1].set_title("nearest", fontsize=9, loc="left")
    figure.subplots_adjust(0.02, 0.06, 0.99, 0.95, wspace=0.1, hspace=0.25 + 0.15 * lines)
    return _save(figure, path)


def draw_text_neighbours(
    path: Path, texts: Sequence[str], order: np.ndarray, similarity: np.ndarray, labels: Sequence[str]
) -> Path:
    """Draw texts and their nearest neighbours, line by line; arguments as in `draw_neighbours`."""
    texts = [f"[{label}] {text}" if label else text for label, text in zip(labels, texts, strict=True)]
    rows, columns = order.shape
    axis = _page(COLUMNS + 10, rows * (columns + 1))
    families, lacking = fonts_for(texts)
    for row, (indices, likeness) in enumerate(zip(order, similarity, strict=True)):
        for place, (index, value) in enumerate(zip(indices, likeness, strict=True)):
            font = {"fontsize": FONT_SIZE, "va": "center", "family": families, "parse_math": False}
            font["color"] = "black" if place else HIDDEN
            height = row * (columns + 1) + place + 0.6
            axis.text(1, height, f"{value:.2f}" if place else "sample", **font)
            axis.text(8, height, first_columns(" ".join(texts[index].split()).translate(lacking)), **font)
    return _save(axis.figure, path)
