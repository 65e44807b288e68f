"""Elements escape what they are given, and numbers read as in print."""

import pytest

from d2v_train.alignment.report.markup import (
    Markup,
    decimal,
    details,
    drawing,
    element,
    html_table,
    interval_text,
    listed,
    p_value,
    plural,
    section,
)


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = element("b", "<i>&")
    assert inner == "<b>&lt;i&gt;&amp;</b>" and isinstance(inner, Markup)
    assert element("p", inner, "<", class_='a"b') == '<p class="a&quot;b"><b>&lt;i&gt;&amp;</b>&lt;</p>'


def test_attributes_that_are_absent_or_have_no_value():
    assert element("img", alt="", src=None, hidden=False, controls=True) == '<img alt="" controls>'
    assert element("svg", stroke_width=1.504, aria_label="x") == '<svg stroke-width="1.5" aria-label="x"></svg>'


def test_lists_are_joined_and_none_is_left_out():
    assert element("p", ["a", None, [element("br"), 2]]) == "<p>a<br>2</p>"


def test_drawings_have_their_own_titles():
    first, second = drawing(10, 20, "one <"), drawing(10, 20, "two")
    assert "<title" in first and "one &lt;</title>" in first and 'viewBox="0 0 10 20"' in first
    named = [each.partition('aria-labelledby="')[2].partition('"')[0] for each in (first, second)]
    assert named[0] != named[1] and f'id="{named[0]}"' in first


def test_sections_without_content_are_left_out():
    assert section("a", "Title", None, []) is None
    assert section("a", "Title", "text") == '<section id="a"><h2>Title</h2>text</section>'
    assert details("more", "x", open_=True).startswith("<details open><summary>more</summary>")


def test_cells_with_numbers_are_marked():
    content = html_table(["name", "n"], [["dog", 3], ["−1", "p = 0.1"], ["3D printer", Markup("<b>1</b>")]], "rows")
    assert content.count('<td class="number">') == 4 and "<caption>rows</caption>" in content
    assert 'aria-label="rows"' in content and "<td><b>1</b></td>" in content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (decimal(-0.1234), "−0.123"),
        (decimal(0.5, 1, sign=True), "+0.5"),
        (decimal(None), "–"),
        (p_value(0.0004), "p < 0.001"),
        (p_value(0.0312), "p = 0.031"),
        (p_value(None), "–"),
        (interval_text(-0.1, 0.25, 2), "[−0.10, 0.25]"),
        (interval_text(None, 1.0), ""),
        (plural(1, "model"), "1 model"),
        (plural(1200, "model"), "1,200 models"),
        (plural(2, "entry", "entries"), "2 entries"),
        (listed(["a"]), "a"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed([]), ""),
    ],
)
def test_numbers_and_lists_in_words(text, expected):
    assert text == expected
