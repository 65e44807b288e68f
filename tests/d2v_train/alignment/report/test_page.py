"""The page as a whole: it stands alone, escapes what it is given, says everything in words, and does without parts."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from d2v_train.alignment.report.page import MOST_BYTES, write_report


HOSTILE = '<script>alert("x")</script> & "quotes" <img src=http://evil.example/x>'
VOID = {"br", "hr", "img", "meta", "link", "input", "col", "wbr"}


class Page(HTMLParser):
    """Elements of a page, with the text of each."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, **dict(attributes), "inside": [each["tag"] for each in self.open], "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> does not close {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]


def read(path):
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def whole(whole_report):
    return read(whole_report)


def test_every_section_is_there_and_linked(whole):
    anchors = [element["id"] for element in whole.all("section")]
    wanted = (
        "controls evidence layers probes similarities neighbours question nuisances variance space units relevance"
    )
    assert anchors == [*wanted.split(), "concepts", "methods", "numbers"]
    links = [element["href"] for element in whole.all("a")]
    assert [link for link in links if link.startswith("#")][1:] == [f"#{anchor}" for anchor in anchors]
    ids = [element["id"] for element in whole.elements if "id" in element]
    assert len(set(ids) - {"ramp"}) == len([each for each in ids if each != "ramp"])


def test_the_answer_comes_first_with_its_numbers(whole, study):
    text = "".join(whole.text)
    assert study.verdict.sentence in text
    assert text.index(study.verdict.sentence) < text.index("Does the method work?")
    for fact in (study.meta.command, study.meta.date[:10], "commit abc1234"):
        assert fact in text


def test_nothing_is_loaded_and_nothing_runs(whole):
    assert whole.all("script", "iframe", "object", "embed", "link", "form", "input") == []
    for element in whole.elements:
        for name in ("src", "href", "poster", "data", "action", "srcset"):
            value = element.get(name)
            assert value is None or value.startswith(("data:", "#")) or value == "align.json", (element["tag"], value)
        assert not any(name.startswith("on") for name in element)
        assert "url(" not in element.get("style", "").replace("url(#", "")
    (style,) = whole.all("style")
    assert "url(" not in style["text"] and "@import" not in style["text"]
    (policy,) = [each for each in whole.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"].startswith("default-src 'none'")


def test_all_that_is_seen_or_heard_has_words(whole):
    pictures, recordings = whole.all("img"), whole.all("audio")
    assert len(pictures) > 10 and len(recordings) > 10
    assert all(len(each["alt"]) > 8 for each in pictures) and all(each["aria-label"] for each in recordings)
    drawings = whole.all("svg")
    titles = {each["id"]: each["text"] for each in whole.all("title") if "id" in each}
    assert len(drawings) > 30
    for each in drawings:
        assert each.get("aria-hidden") == "true" or len(titles[each["aria-labelledby"]]) > 15
    assert all(each.get("scope") == "col" for each in whole.all("th"))


def test_everything_can_be_reached_by_keyboard(whole):
    assert whole.elements[[each["tag"] for each in whole.elements].index("a")]["class"] == "skip"
    boxes = [each for each in whole.all("div") if each.get("class") == "scroll"]
    assert boxes and all(each["tabindex"] == "0" and each["aria-label"] for each in boxes)
    assert all("controls" in each for each in whole.all("audio"))
    assert not any(int(each.get("tabindex", 0)) > 0 for each in whole.elements)
    assert all("details" in each["inside"] for each in whole.all("summary"))


def test_headings_do_not_skip_a_level(whole):
    levels = [int(each["tag"][1]) for each in whole.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert whole.all("html")[0]["lang"] == "en"


def test_foreign_text_is_escaped_wherever_it_stands(study, examples):
    def spoiled(value):
        if dataclasses.is_dataclass(value):
            return dataclasses.replace(
                value, **{field.name: spoiled(getattr(value, field.name)) for field in dataclasses.fields(value)}
            )
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(spoiled(item) for item in value)
        return f"{value}{HOSTILE}" if isinstance(value, str) and value in foreign else value

    foreign = {"The speech is synthetic.", study.verdict.sentence, study.meta.command, study.limits[0], "the big dog"}
    foreign |= {study.controls[0].expected, study.preregistration.text, *study.left_out.values()}
    for concept in study.concepts:
        foreign |= set(concept.exemplars["text"].shown)
    page = read(write_report(spoiled(study), examples / "align.html"))
    assert page.all("script") == [] and not any("evil" in each.get("src", "") for each in page.elements)
    assert "".join(page.text).count(HOSTILE) >= 6


def test_names_of_concepts_are_escaped_in_drawings_and_attributes(study, examples):
    for matrix in study.similarities:
        matrix.names[0] = HOSTILE
    study.questions[0].exemplar_names[0] = HOSTILE
    page = read(write_report(study, examples / "align.html"))
    assert page.all("script") == []
    assert any(HOSTILE in each["text"] for each in page.all("text"))


def test_parts_that_are_missing_are_left_out(bare, tmp_path):
    page = read(write_report(bare, tmp_path / "align.html"))
    assert [each["id"] for each in page.all("section")] == ["evidence", "concepts", "methods", "numbers"]
    assert page.all("audio") == []
    text = "".join(page.text)
    assert "None" not in text and "nan" not in text and "spoken" not in text.replace("is spoken and written", "")


def test_examples_that_cannot_be_read_are_left_out(study, tmp_path, caplog):
    page = read(write_report(study, tmp_path / "align.html"))
    assert "cat_0.jpg is not shown" in caplog.text
    assert all(each["src"].startswith("data:") for each in page.all("img", "audio"))


def test_the_page_stays_small_whatever_the_examples(study, examples, monkeypatch):
    path = write_report(study, examples / "align.html")
    assert path.stat().st_size < MOST_BYTES
    plain = path.stat().st_size
    monkeypatch.setattr("d2v_train.alignment.report.page.MOST_BYTES", plain - 1)
    assert write_report(study, examples / "align.html").stat().st_size < plain


def test_every_number_on_the_page_is_a_number(whole):
    assert not re.search(r"\b(nan|inf|None)\b", "".join(whole.text))
    for element in whole.all("rect", "circle", "line", "image", "polyline", "polygon", "path"):
        for value in element.values():
            assert not isinstance(value, str) or not re.search(r"\b(nan|inf)\b", value), element
        for name in ("width", "height", "r"):
            assert float(element.get(name, 0)) >= 0, element
