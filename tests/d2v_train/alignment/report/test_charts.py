"""Charts put values where they belong: read back from the coordinates of the drawing."""

import re
import xml.etree.ElementTree as ET

import pytest

from d2v_train.alignment.report.charts import (
    WIDTH,
    Curve,
    Estimate,
    Point,
    heat_map,
    histogram,
    interval_chart,
    key,
    lamp,
    line_chart,
    rank_strip,
    scatter,
    stacked_bars,
    tick_label,
    ticks,
)
from d2v_train.alignment.report.style import ramp_colour


def parsed(content):
    """The drawing as XML, which it must be."""
    return ET.fromstring(content)


def tips(root):
    """Element -> tip, for all elements with one."""
    return [
        (each, each.find("title").text) for each in root.iter() if each.tag != "svg" and each.find("title") is not None
    ]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.1, 0.12, [-0.1, -0.05, 0, 0.05, 0.1]), (0, 0, [0])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
    assert tick_label(-0.05) == "−0.05"


def test_a_heat_map_has_a_cell_for_each_value_in_its_colour():
    values = [[0.0, 0.5, 1.0], [0.25, 0.75, 0.1]]
    root = parsed(heat_map(values, ["0", "1"], ["a", "b", "c"], 0, 1, title="t", alt="words", row_axis="r"))
    cells = tips(root)
    assert [cell.get("fill") for cell, _ in cells] == [ramp_colour(value) for row in values for value in row]
    assert [tip.rpartition(": ")[2] for _, tip in cells] == ["0.000", "0.500", "1.000", "0.250", "0.750", "0.100"]
    assert len({(cell.get("x"), cell.get("y")) for cell, _ in cells}) == 6
    assert ".75" in [each.text for each in root.iter("text")]
    flat = parsed(heat_map([[0.3]], ["0"], ["0"], 0.3, 0.3, title="t", alt="words"))
    assert tips(flat)[0][0].get("fill") == ramp_colour(0)


def test_many_columns_fit_without_numbers():
    content = heat_map(
        [[0.5] * 13] * 13, [str(i) for i in range(13)], [str(i) for i in range(13)], 0, 1, title="", alt="w"
    )
    root = parsed(content)
    assert float(root.get("width")) <= WIDTH and ".50" not in [each.text for each in root.iter("text")]
    grouped = heat_map(
        [[1.0] * 4], ["0"], ["0", "1", "0", "1"], 0, 1, title="", alt="w", column_groups=[("word", 2), ("all", 2)]
    )
    assert {"word", "all"} <= {each.text for each in parsed(grouped).iter("text")}


def test_lines_rise_with_their_values_and_bands_surround_them():
    series = [Curve("own", [0.1, 0.4, None, 0.2], "red", [0.0, 0.3, None, 0.1], [0.2, 0.5, None, 0.3])]
    root = parsed(line_chart(series, ["0", "1", "2", "3"], title="t", alt="words"))
    points = {tip: float(each.get("cy")) for each, tip in tips(root)}
    assert points["own, 1: 0.400"] < points["own, 3: 0.200"] < points["own, 0: 0.100"] and len(points) == 3
    (band,) = root.iter("polygon")
    heights = [float(pair.split(",")[1]) for pair in band.get("points").split()]
    assert len(heights) == 6 and min(heights) < points["own, 1: 0.400"] < max(heights)
    parsed(line_chart([Curve("one", [0.5], "red")], ["0"], title="t", alt="words"))


def test_intervals_lie_around_their_points():
    rows = [Estimate("joint 0", 0.2, "red", 0.1, 0.4, (0.05, 0.01)), Estimate("other", -0.1, "red")]
    root = parsed(interval_chart(rows, title="t", alt="words", axis="score"))
    first, second = (float(each.get("cx")) for each in root.iter("circle"))
    assert second < first
    bars = [each for each in root.iter("line") if each.get("stroke") == "red"]
    assert len(bars) == 1 and float(bars[0].get("x1")) < first < float(bars[0].get("x2"))
    (null,) = root.iter("rect")
    zero = next(float(each.get("x1")) for each in root.iter("line") if each.get("style"))
    assert second < zero < float(null.get("x")) < first


def test_bars_are_as_long_as_their_shares():
    parts = [("a", "red", "#fff"), ("b", "blue", "#fff")]
    root = parsed(stacked_bars([("layer 0", [0.25, 0.75]), ("layer 1", [1.0, 0.0])], parts, title="t", alt="words"))
    widths = [float(each.get("width")) for each in root.iter("rect")]
    assert widths[1] / widths[0] == pytest.approx(3, rel=0.05) and widths[3] == 0
    assert "layer 0, b: 75.0 %" in [tip for _, tip in tips(root)]


def test_a_histogram_draws_each_count():
    counts = [("own", [0, 4, 2], "red", True), ("other", [1, 1, 1], "grey", False)]
    root = parsed(histogram(counts, title="t", alt="words", axis="share", ends=("0", "all")))
    first, second = root.iter("polygon")
    heights = {float(pair.split(",")[1]) for pair in first.get("points").split()}
    assert len(heights) == 3 and second.get("fill") == "none"


def test_points_of_a_concept_are_joined_and_the_marked_one_is_labelled():
    points = [
        Point(x, y, "red", f"{name} {x}", name, name if name == "dog" else "")
        for name in ("dog", "ox")
        for x, y in ((0, 0), (1, 2), (3, 1))
    ]
    root = parsed(scatter(points, title="t", alt="words", axes=("1", "2")))
    assert len(list(root.iter("polyline"))) == 2 and len(list(root.iter("circle"))) == 6
    assert [each.text for each in root.iter("text")].count("dog") == 1
    where = {tip: (float(each.get("cx")), float(each.get("cy"))) for each, tip in tips(root)}
    assert where["ox 0"][0] < where["ox 1"][0] < where["ox 3"][0] and where["ox 1"][1] < where["ox 0"][1]
    parsed(scatter([Point(1, 1, "red", "alone")], title="t", alt="words", axes=("1", "2")))


def test_equal_ranks_are_stacked():
    root = parsed(rank_strip([1, 1, 60], 60, colour="red", alt="words", names=["a", "b", "c"]))
    dots = {tip: (float(each.get("cx")), float(each.get("cy"))) for each, tip in tips(root)}
    assert dots["a: rank 1"][0] == dots["b: rank 1"][0] < dots["c: rank 60"][0] < WIDTH
    assert dots["a: rank 1"][1] != dots["b: rank 1"][1]


def test_lamps_differ_by_more_than_their_colour():
    assert len({re.sub(r"var\(--\w+\)", "", lamp(state)) for state in (True, False, None)}) == 3
    assert 'style="background:red"' in key([("own", "red")])
