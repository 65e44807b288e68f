"""Drawings of what a model predicts: hidden patches covered, long text cut."""

import itertools

import numpy as np
import pytest
from PIL import Image

from d2v_train.models.build import build_config
from d2v_train.options.files import load_options
from d2v_train.probing.drawings import (
    BAND_ROWS,
    HIDDEN,
    banded_spectrogram,
    draw_audio_masks,
    draw_image_masks,
    draw_neighbours,
    draw_series_masks,
    draw_text_masks,
    draw_text_neighbours,
    first_columns,
    fonts_for,
    series_of,
    show_array,
    text_width,
)


def share_of(path, colour=HIDDEN, tolerance=12):
    """Share of the pixels of a picture that have about a colour."""
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return (np.abs(np.asarray(Image.open(path).convert("RGB"), dtype=int) - wanted).max(axis=2) < tolerance).mean()


def test_hidden_patches_are_covered_and_no_others(tmp_path):
    masks = np.zeros((2, 1, 2, 2), dtype=bool)
    masks[1] = True
    none = draw_image_masks(tmp_path / "none.png", [np.zeros((3, 8, 8))], masks[:1], ["a"])
    every = draw_image_masks(tmp_path / "every.png", [np.zeros((3, 8, 8))], masks[1:], ["a"])
    assert share_of(none, tolerance=40) == 0 and share_of(every, tolerance=40) > 0.25


def test_longer_text_is_cut(tmp_path):
    hidden = [np.zeros(2000, dtype=bool), np.ones(2000, dtype=bool)]
    paths = [draw_text_masks(tmp_path / f"{i}.png", [["$word "] * 2000], [mask]) for i, mask in enumerate(hidden)]
    assert Image.open(paths[0]).size == Image.open(paths[1]).size
    assert share_of(paths[0], "#edb78b") == 0 < 0.4 < share_of(paths[1], "#edb78b")


@pytest.mark.parametrize(
    "text, lacking",
    [
        ("plain", ""),
        ("naïve Ωмир", ""),
        ("\u0378 private", "\u0378"),
        ("a\U000f0000b\U00100000", "\U000f0000\U00100000"),
    ],
)
def test_characters_are_drawn_by_a_font_that_has_them_or_replaced(text, lacking, tmp_path, recwarn):
    families, table = fonts_for([text])
    assert families[0] == "DejaVu Sans Mono" and set(table) == set(map(ord, lacking))
    draw_text_masks(tmp_path / "x.png", [[text]], [np.zeros(1, dtype=bool)])
    draw_text_neighbours(tmp_path / "y.png", [text] * 2, np.array([[0, 1]]), np.ones((1, 2)), ["", "a"])
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_chinese_has_glyphs_or_the_log_says_which_are_missing(tmp_path, caplog, recwarn):
    families, table = fonts_for(["数据 data"])
    told = "Noto Sans CJK" in caplog.text and set(table) <= set(map(ord, "数据"))
    assert told if table else len(families) > 1
    draw_text_masks(tmp_path / "x.png", [list("数据 data")], [np.zeros(7, dtype=bool)])
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    assert text_width("数据 data") == 9 and first_columns("数据 data", 3) == "数"


def test_bands_of_a_spectrogram_are_drawn_where_their_sound_is(tmp_path):
    config = build_config(load_options("tiny_spectrogram", ["output_dir=x"]))
    edges = config.audio_config.band_edges
    centres: list[float] = []
    times, stride = np.arange(16_000) / 16_000, config.audio_config.frame_stride
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        tone = np.sin(2 * np.pi * (low + high) / 2 * times)
        rows = banded_spectrogram(tone, stride, 16_000, edges).mean(axis=1)
        assert rows.reshape(len(edges) - 1, BAND_ROWS).max(axis=1).argmax() == band
        mask = np.zeros((1, 4, 12), dtype=bool)
        mask[:, band] = True
        path = draw_audio_masks(tmp_path / f"{band}.png", [tone], [mask], ["tone"], stride, 16_000, edges)
        # Covered with its sound, a band hides it; the others are white but for what leaks into them.
        hidden = np.asarray(Image.open(path).convert("RGB"), dtype=int)
        coloured = np.argwhere(hidden[..., 0] - hidden[..., 2] > 60)[:, 0]
        centres.append(np.median(coloured))
    assert centres == sorted(centres, reverse=True)


@pytest.mark.parametrize("hidden", [0.0, 0.25, 1.0])
def test_hidden_tokens_of_a_series_are_covered(tmp_path, hidden):
    series = np.random.default_rng(0).normal(size=(80, 3))
    mask = np.zeros((1, 20), dtype=bool)
    mask[:, : round(20 * hidden)] = True
    path = draw_series_masks(tmp_path / "masks.png", [series], [mask], ["one"])
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=int)
    coloured = pixels[..., 0] - pixels[..., 2] > 60
    # Across the width of the plot, in the share that is hidden.
    assert coloured.any(axis=0).mean() == pytest.approx(0.9 * hidden, abs=0.03)


def test_an_array_of_several_sides_is_drawn_along_its_longest_one():
    volume = np.zeros((3, 40, 5, 20))
    volume[1, :, 2] = np.arange(40)[:, None]
    lines = series_of(volume)
    assert lines.shape == (40, 12) and (lines[:, 0] == np.arange(40)).all()


def test_arrays_of_every_number_of_sides_have_neighbours_drawn(tmp_path):
    rng = np.random.default_rng(0)
    for shape in ((30, 2), (1, 1), (8, 9, 3), (4, 5, 6, 2)):
        arrays = [rng.normal(size=shape) for _ in range(3)]
        order = np.array([[0, 1, 2]])
        names = ["a", "b", "c"]
        path = draw_neighbours(tmp_path / "near.png", arrays, names, order, np.ones((1, 3)), show_array, names)
        assert np.asarray(Image.open(path).convert("L")).std() > 5
