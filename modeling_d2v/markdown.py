"""Markdown made from text of others: names of folders, data sets, classes and models cannot become markup.

Everything that enters a card through these functions is escaped, unless it is a `Markdown` string itself.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


class Markdown(str):
    """Text that is markup on purpose."""


def escape(value: Any) -> Markdown:
    """Return a value as one line of text that shows as it is, also in a heading or a cell of a table."""
    if isinstance(value, Markdown):
        return value
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]{}~|!])", r"\\\1", text)
    # Inside a word, an underscore is no emphasis; at the start of a line, these are headings and lists.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"^(#|[-+=](?=\s|$|[-+=]))", r"\\\1", text)
    return Markdown(re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text))


def code(value: Any) -> Markdown:
    """Return a value as code within a line."""
    text = " ".join(str(value).split()) or " "
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * (longest > 0)
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def code_block(text: str, language: str = "") -> Markdown:
    """Return lines of code as a block, whose fence is longer than any in them."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def python_string(text: str) -> str:
    """Return text as a string literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def markdown_table(rows: Sequence[Sequence[Any]]) -> Markdown:
    """Return a table whose head is the first row; cells that are not `Markdown` are escaped."""
    head, *body = [map(_cell, row) for row in rows]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(rows[0]), *body]))


def facts_table(facts: Mapping[Any, Any]) -> Markdown:
    """Return a table of two columns without a head."""
    rows = [f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items()]
    return Markdown("\n".join(["| | |", "|---|---|", *rows]))


def _cell(value: Any) -> str:
    # A vertical bar ends the cell even within code.
    return re.sub(r"(?<!\\)\|", r"\\|", escape(value))
