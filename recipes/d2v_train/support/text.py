"""Human-readable numbers and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def table(rows: Sequence[Sequence[Any]], *, align: str = "<", widths: Sequence[int] = ()) -> str:
    """Lay out rows as aligned text.

    Args:
        rows: Cells of each line, the same number in all of them.
        align: Alignment of each column, "<" for left or ">" for right; the last one also applies to all further ones.
        widths: Least widths of the columns in characters, to align several tables. Default: those of the cells.

    Returns:
        The lines, without a final line break.

    >>> print(table([("step", "loss"), (10, 0.5)], align="<>"))
    step  loss
    10     0.5
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    longest = [max(map(len, column)) for column in zip(*cells, strict=True)]
    least = [*widths, *[0] * (len(longest) - len(widths))]
    sides = align.ljust(len(longest), align[-1])
    layout = [f"{side}{max(pair)}" for side, *pair in zip(sides, longest, least, strict=True)]
    return "\n".join("  ".join(map(format, row, layout)).rstrip() for row in cells)


def readable_bytes(count: float) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> readable_bytes(1536)
    '1.5 KiB'
    """
    for unit in UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {UNITS[-1]}"


def duration(seconds: float) -> str:
    """Return seconds in human-readable form: "45 s", "12 min", "3 h 20 min", "6 d 4 h"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes // 60 % 24} h"


def lines_of(text: str) -> list[str]:
    """Return the lines of a text: what ends with a line feed, also after a carriage return, and with nothing else.

    `str.splitlines` also breaks lines at form feeds, U+0085 and U+2028, which are characters of files.

    >>> lines_of("one\\r\\ntwo\\u2028three\\n")
    ['one', 'two\\u2028three']
    """
    *lines, rest = text.split("\n")
    return [line.removesuffix("\r") for line in ([*lines, rest] if rest else lines)]
