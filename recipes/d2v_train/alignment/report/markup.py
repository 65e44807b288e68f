"""Elements of HTML and SVG whose text is escaped by construction.

`element` escapes every child and every attribute; only what it made itself, a `Markup`, is left as it is. Names of
files, concepts and sentences come from data that nobody has checked, so no other way leads into the page.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from typing import Any


VOID = {"br", "hr", "img", "meta", "link", "input", "col", "wbr"}
NUMBER_STARTS = (*"-−+.[0123456789", "p = ", "p < ")
_ids = itertools.count(1)


class Markup(str):
    """Text that is HTML already."""


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: Tag.
        *children: Text, which is escaped, `Markup`, or lists of these; None is left out.
        **attributes: `class_` is class, and further underscores become hyphens. None and False are left out; True is
            an attribute without a value.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(_text(value), quote=True)}"')
    parts.append(">")
    if name in VOID:
        return Markup("".join(parts))
    return Markup("".join(parts) + join_markup(children) + f"</{name}>")


def join_markup(children: Iterable[Any]) -> Markup:
    """Return children one after another, escaped as by `element`."""
    found = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            found.append(child)
        elif isinstance(child, list | tuple):
            found.append(join_markup(child))
        else:
            found.append(html.escape(_text(child), quote=False))
    return Markup("".join(found))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def figure(drawing: Markup, caption: Any = None, class_: str | None = None) -> Markup:
    """Return a figure with a caption below it."""
    return element("figure", drawing, element("figcaption", caption) if caption else None, class_=class_)


def drawing(width: float, height: float, alt: str, *children: Any, class_: str | None = None) -> Markup:
    """Return an SVG image of its natural size, which a narrow screen may make smaller.

    Args:
        width, height: In pixels.
        alt: What it shows, in words, for those who do not see it.
        *children: Elements of SVG.
        class_: Its class.
    """
    number = next(_ids)
    return element(
        "svg",
        element("title", alt, id=f"drawing-{number}"),
        *children,
        viewBox=f"0 0 {_text(float(width))} {_text(float(height))}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"drawing-{number}",
        class_=class_,
    )


def html_table(head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: Any = None, class_: str = "") -> Markup:
    """Return a table in a box that scrolls where the screen is too narrow."""
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", [element("th", cell, scope="col") for cell in head])),
            element("tbody", [element("tr", [_cell(cell) for cell in row]) for row in rows]),
            class_=class_ or None,
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption if isinstance(caption, str) else "table",
    )


def _cell(cell: Any) -> Markup:
    number = isinstance(cell, int | float) or (isinstance(cell, str) and cell.startswith(NUMBER_STARTS))
    return element("td", cell, class_="number" if number and not isinstance(cell, Markup) else None)


def details(summary: Any, *children: Any, open_: bool = False) -> Markup:
    """Return a part that opens when its summary is chosen; it needs no script."""
    return element("details", element("summary", summary), *children, open=open_)


def section(anchor: str, title: str, *children: Any) -> Markup | None:
    """Return a section of the page, or None if it has no content."""
    content = join_markup(children)
    return element("section", element("h2", title), content, id=anchor) if content else None


def decimal(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Return a number for a reader; None is a dash."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.replace("-", "−")


def p_value(p: float | None) -> str:
    """Return a p-value for a reader, such as "p = 0.012" or "p < 0.001"."""
    if p is None:
        return "–"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def interval_text(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return an interval for a reader, "" where there is none."""
    return "" if low is None or high is None else f"[{decimal(low, digits)}, {decimal(high, digits)}]"


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Return names as a list in words."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""
