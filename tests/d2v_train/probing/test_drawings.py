"""Drawings of what a model predicts: hidden patches covered, long text cut."""

import numpy as np
from PIL import Image

from d2v_train.probing.drawings import HIDDEN, draw_image_masks, draw_text_masks


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
