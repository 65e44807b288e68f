"""The colours of the page are legible, and the style sheet defines every one that drawings use."""

import re
from pathlib import Path

import pytest

from d2v_train.alignment.report import style
from d2v_train.alignment.report.style import on_ramp, ramp, ramp_colour, style_sheet


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours(part):
    """Name -> colour of the variables in a part of the style sheet."""
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", part))
    return {
        name: value if len(value) == 7 else "#" + "".join(2 * c for c in value[1:]) for name, value in found.items()
    }


LIGHT, DARK = (colours(part) for part in style_sheet().split("}", 1))


def test_the_ramp_rises_in_lightness_and_ends_are_clipped():
    values = [luminance(ramp_colour(step / 20)) for step in range(21)]
    assert values == sorted(values) and ramp(-1) == ramp(0) and ramp(2) == ramp(1)


def test_letters_on_the_ramp_are_legible():
    for step in range(51):
        ink = {"#fff": "#ffffff", "#111": "#111111"}[on_ramp(step / 50)]
        assert contrast(ink, ramp_colour(step / 50)) > 2.9


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_are_legible_in_both_themes(theme):
    for name in ("ink", "soft", "good", "bad", "open", "vision", "audio", "text"):
        for ground in ("page", "card"):
            assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)
    for name in ("concept", "own_concept", "position", "modality", "residual"):
        assert contrast(theme[f"on-{name}"], theme[name]) >= 4.5, name


def test_every_variable_is_defined_in_both_themes():
    assert LIGHT.keys() == DARK.keys() - {"relevant"}
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(style.__file__).parent.glob("*.*"))
    used = set(re.findall(r"var\(--([\w-]+)\)", sources))
    assert used - LIGHT.keys() == {"relevant", "against"}
