"""Colours of the page, and its style sheet, `page.css`."""

from __future__ import annotations

import functools
from pathlib import Path


RAMP = (
    (0.00, (68, 1, 84)),
    (0.13, (72, 36, 117)),
    (0.25, (62, 74, 137)),
    (0.38, (49, 104, 142)),
    (0.50, (38, 130, 142)),
    (0.63, (31, 158, 137)),
    (0.75, (83, 197, 105)),
    (0.88, (160, 218, 57)),
    (1.00, (253, 231, 37)),
)
"""Viridis: of even steps in lightness, for colour-blind readers too, and legible on light and dark pages."""


def ramp(share: float) -> tuple[int, int, int]:
    """Return the colour of a share from 0 to 1."""
    share = min(1.0, max(0.0, share))
    for (low, first), (high, second) in zip(RAMP, RAMP[1:], strict=False):
        if share <= high:
            part = (share - low) / (high - low)
            return tuple(round(a + part * (b - a)) for a, b in zip(first, second, strict=True))
    return RAMP[-1][1]


def ramp_colour(share: float) -> str:
    """Return the colour of a share as CSS."""
    return "#{:02x}{:02x}{:02x}".format(*ramp(share))


def on_ramp(share: float) -> str:
    """Return the colour of text that is legible on `ramp_colour`."""
    return "#fff" if share < 0.6 else "#111"


@functools.cache
def style_sheet() -> str:
    """Return the style sheet, which lies beside this file."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
