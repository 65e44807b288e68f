"""Write align.html: one file that can be mailed, reads without network and without script, and explains itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from d2v_train.alignment.report import answer, concepts, gallery, inside, layers, methods
from d2v_train.alignment.report.markup import Markup, element
from d2v_train.alignment.report.media import Media
from d2v_train.alignment.report.style import style_sheet
from d2v_train.alignment.report.views import Page
from d2v_train.alignment.results import Study
from d2v_train.support.atomic import write_text


logger = logging.getLogger(__name__)

PAGE = "align.html"
MOST_BYTES = 5_000_000
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
"""Content security policy: the browser itself sees to it that the page loads nothing."""

Section = Callable[[Page], Markup | None]


def write_report(study: Study, path: str | Path, json_name: str = "align.json") -> Path:
    """Write the report of a study.

    Args:
        study: The study. Paths of its examples are relative to the folder of the report.
        path: HTML file to write, of less than 5 MB.
        json_name: Name of the file with all numbers, in the same folder.

    Returns:
        The path.
    """
    path = Path(path)
    for budget in (3_600_000, 1_800_000, 600_000, 0):
        content = report(study, path.parent, json_name, budget)
        if len(content.encode("utf-8")) < MOST_BYTES:
            break
        logger.info("The page is too large with examples of %d bytes; it is written with fewer.", budget)
    write_text(path, content)
    return path


def report(study: Study, folder: Path, json_name: str, budget: int) -> str:
    """Return the page as HTML, with examples of at most `budget` bytes."""
    page = Page(study, Media(study.concepts, folder, budget), json_name, folder)
    made = [(name, part) for name, make in _sections(study) if (part := make(page)) is not None]
    links = [(_anchor(part), name) for name, part in made]
    body = [
        element("a", "Skip to the answer", href="#main", class_="skip"),
        answer.heading(page, links),
        element("main", [part for _, part in made], id="main"),
        element(
            "footer",
            element(
                "p",
                "Written by d2v align. This file holds everything that it shows; it loads nothing and runs no script.",
            ),
        ),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", "Alignment report"),
        element("style", Markup(style_sheet())),
    ]
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en") + "\n"


def _sections(study: Study) -> list[tuple[str, Section]]:
    """Return the sections in their order, with the names that lead to them."""
    found: list[tuple[str, Section]] = [
        ("Controls", answer.controls),
        ("Evidence", answer.evidence),
        ("Layers", layers.layer_maps),
        ("Probes", layers.probes),
        ("Similarities", concepts.similarities),
        ("Neighbours", concepts.neighbours),
        ("Question", concepts.question),
        ("Nuisances", methods.nuisances),
    ]
    if study.inspections:
        found += [(name, _inside(make)) for name, make in INSIDE]
    return [*found, ("Concepts", methods.concepts), ("Methods", methods.methods), ("Numbers", methods.numbers)]


INSIDE = (
    ("Variance", inside.variance),
    ("Space", inside.space),
    ("Units", inside.units),
    ("Relevance", gallery.relevance),
)


def _inside(make: Callable) -> Section:
    def first(page: Page) -> Markup | None:
        """Return the section of the first encoder that was looked into."""
        return make(page, page.study.inspections[0])

    return first


def _anchor(part: Markup) -> str:
    """Return the id of a section."""
    return part.partition('id="')[2].partition('"')[0]
