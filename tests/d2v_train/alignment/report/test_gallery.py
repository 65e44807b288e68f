"""Relevance lies over its input in the right place and colour."""

import base64
import dataclasses
import io
import re

import numpy as np
from PIL import Image

from d2v_train.alignment.report.gallery import relevance


def overlays(content):
    """The pictures in drawings, as arrays."""
    uris = re.findall(r'<image href="data:image/\w+;base64,([^"]+)"', content)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def only(page, modality):
    """The inspection with the map of one modality."""
    found = page.study.inspections[0]
    maps = [each for each in found.relevance if each.item.modality == modality]
    return dataclasses.replace(found, relevance=maps, sanity={})


def test_relevance_of_a_picture_is_red_above_and_blue_below_zero(page):
    found = only(page, "vision")
    found.relevance[0].values = [1.0] + [0.0] * 62 + [-1.0]
    tint = overlays(relevance(page, found))[2]
    assert tint.shape == (8, 8, 4)
    red, blue = tint[0, 0], tint[7, 7]
    assert red[0] > red[2] and blue[2] > blue[0] and red[3] == blue[3] > 150
    assert (tint[1:7, :, 3] == 0).all()
    assert "at 0 % of the width and 0 % of the height" in relevance(page, found)


def test_a_recording_has_spectrogram_waveform_relevance_and_player(page):
    content = relevance(page, only(page, "audio"))
    assert (
        len(overlays(content)) == 1 and content.count("var(--relevant)") > 10 and content.count("var(--against)") > 10
    )
    assert "<audio controls" in content and 'stroke-width="0.9"' in content
    found = only(page, "audio")
    found.relevance[0].item.uri = "data:audio/mpeg;base64,AAAA"
    assert overlays(relevance(page, found)) == []


def test_a_spectrogram_shows_high_tones_above_low_ones(page):
    from d2v_train.inspection.display import recording_uri

    rows = []
    for frequency in (500, 4000):
        found = only(page, "audio")
        found.relevance[0].item.uri = recording_uri(np.sin(2 * np.pi * frequency * np.arange(8000) / 16000))
        (picture,) = overlays(relevance(page, found))
        rows.append(int(picture.mean(axis=1).argmin()) / len(picture))
    assert rows[0] > 0.85 and 0.4 < rows[1] < 0.6  # dark is loud; 8 kHz is the top


def test_words_are_coloured_and_their_values_are_tips(page):
    content = relevance(page, only(page, "text"))
    assert "rgba(var(--against),0.75)" in content and "rgba(var(--relevant),0.75)" in content
    assert '<span style="background:rgba(var(--relevant),0.75)" title="+1.00 of the strongest"> dog</span>' in content


def test_an_integral_that_is_off_is_said(page):
    found = only(page, "text")
    assert "The integral is off by +0.20." in relevance(page, found)
    found.relevance[0].gap = 0.001
    assert "The integral" not in relevance(page, found).replace("Integrated", "")


def test_checks_say_whether_relevance_can_be_trusted(page):
    found = page.study.inspections[0]
    content = relevance(page, found)
    assert "not shown to be better than random order" in content and "+0.175" in content
    assert "block 2 and later: 0.40, all weights: 0.10" in content
    found.sanity["vision"] = dataclasses.replace(found.sanity["vision"], p=0.01)
    assert ">better than random order" in relevance(page, found)
    assert relevance(page, dataclasses.replace(found, relevance=[])) is None
