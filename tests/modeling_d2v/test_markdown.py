"""Text of others shows in a card as it is, as judged by a parser of Markdown."""

import ast

import pytest
from markdown_it import MarkdownIt

from modeling_d2v.markdown import Markdown, code, code_block, escape, facts_table, markdown_table, python_string


HOSTILE = [
    "plain name",
    "a|b",
    "`code` and ``more``",
    "# heading",
    "two\nlines\r\n\n---\n\n# three",
    "<script>alert(1)</script>",
    "<!-- comment",
    "[link](https://example.org) ![picture](x.png)",
    "**bold** _it_ ~~gone~~ snake_case __init__",
    "- item",
    "1. first",
    "+ 3",
    "===",
    "C:\\new\\*",
    "&lt; &amp;",
    "trailing \\",
    "größe 😀 dog",
    "$x$ {y}",
    "```",
]


def parse(text):
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def shown(tokens):
    """Text of inline tokens; anything but text, code and line breaks is markup."""
    found = []
    for token in tokens:
        assert token.type in ("text", "text_special", "code_inline"), token
        found.append(token.content)
    return "".join(found)


def one_line(text):
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("render", [escape, code])
def test_text_shows_as_it_is_in_headings_paragraphs_and_cells(text, render):
    heading = parse(f"# {render(text)}")
    assert [token.type for token in heading] == ["heading_open", "inline", "heading_close"]
    assert shown(heading[1].children) == one_line(text)
    paragraph = parse(f"{render(text)}")
    assert [token.type for token in paragraph] == ["paragraph_open", "inline", "paragraph_close"]
    assert shown(paragraph[1].children) == one_line(text)
    cells = [token for token in parse(markdown_table([("a", "b"), (render(text), text)])) if token.type == "inline"]
    assert [shown(cell.children) for cell in cells] == ["a", "b", one_line(text), one_line(text)]


@pytest.mark.parametrize("text", HOSTILE)
def test_blocks_and_strings_of_code_end_where_they_should(text):
    (block,) = parse(code_block(text, "yaml"))
    assert (block.type, block.info) == ("fence", "yaml") and block.content.split() == text.split()
    assert ast.literal_eval(python_string(text)) == text
    assert "\n" not in python_string(text)


def test_markup_on_purpose_is_kept():
    table = facts_table({"a|b": Markdown("**c**"), "d": None})
    assert table == "| | |\n|---|---|\n| a\\|b | **c** |\n| d | None |"
