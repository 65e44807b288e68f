"""Lines and documents of a file as byte offsets, in any encoding and with any windows."""

import re

import pytest

from d2v_train.data.text_lines import (
    INSIDE_WORD,
    LONG_WORD,
    NO_JOINT,
    Documents,
    FileEncoding,
    cut_documents,
    file_encoding,
    find_documents,
    has_long_word,
    unmarked_wide_encoding,
)


TEXTS = [
    "one\ntwo\n\nthree\n",
    "\n\n  one\n \t\n\r\n\ntwo\r\nthree\r\n\r\n\r\n",
    "no line feed at the end",
    "a\x85b\u2028c\u2029d\x0be\x0cf\rg\n\nh",
    "\u0a0a\u0a41\u0100\n\n\u000a\u0d0a\u2020\n",
    "\n",
    "",
    "x\n" * 7 + "\n" * 5 + "y" * 40,
]
ENCODINGS = ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]


def documents_of(text: str, rule: str) -> list[str]:
    """The rules in words, for texts in memory."""
    lines = text.split("\n")
    if rule == "lines":
        return [line for line in lines if line.strip(" \t\r\x0b\x0c")]
    if rule == "files":
        return [text.strip(" \t\r\n\x0b\x0c")] if text.strip(" \t\r\n\x0b\x0c") else []
    return [part for part in re.split(r"\n(?:[ \t\r]*\n)+", "\n" + text + "\n") if part.strip(" \t\r\n")]


def read_back(text: str, encoding: str, rule: str, window: int, mark: bytes = b"") -> list[str]:
    content = mark + text.encode(encoding, "surrogatepass")
    windows = (content[place : place + window] for place in range(len(mark), len(content), window))
    found = find_documents(windows, FileEncoding(encoding, len(mark)), rule)
    return [content[a:b].decode(encoding) for a, b in zip(found.first, found.last, strict=True)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rule", ["paragraphs", "lines", "files"])
@pytest.mark.parametrize("text", TEXTS)
def test_documents_do_not_depend_on_encoding_and_windows(text, rule, encoding):
    expected = [part.strip(" \t\r\n") for part in documents_of(text, rule)]
    for window in (4, 12, 1000):
        found = [part.strip(" \t\r\n") for part in read_back(text, encoding, rule, window)]
        assert found == expected, window
    assert [part.strip(" \t\r\n") for part in read_back(text, encoding, rule, 8, b"\xff" * 4)] == expected


@pytest.mark.parametrize(
    "encoding, words",
    [
        ("latin-1", "\xe9 \xa0"), ("cp1252", "\u20ac \xdf"), ("cp037", "\xe9 \xdf"), ("koi8-r", "\u0416"),
        ("shift_jis", "\u30bd\u8868"), ("gb18030", "\u3042\u4e00"), ("big5", "\u529f\u84cb"), ("euc_jp", "\u30bd"),
        ("iso2022_jp", "\u30bd\u8868"),
    ],
)  # fmt: skip
def test_other_encodings_have_the_same_lines(encoding, words):
    text = f"{words}\n{words}\n\n1 {words} 2\n"
    assert read_back(text, encoding, "paragraphs", 3) == [f"{words}\n{words}", f"1 {words} 2"]
    assert read_back(text, encoding, "lines", 3) == [words, words, f"1 {words} 2"]


def test_lines_are_numbered_with_the_blank_ones():
    found = find_documents([b"\na\n\n \nb", b"c\n\x0c\nd"], FileEncoding("utf-8"), "lines")
    assert found.number.tolist() == [2, 5, 7] and found.first.tolist() == [1, 6, 11]


@pytest.mark.parametrize(
    "head, name, mark",
    [
        (b"\xef\xbb\xbfa", "utf-8", 3),
        (b"\xff\xfea\x00", "utf-16-le", 2),
        (b"\xfe\xff\x00a", "utf-16-be", 2),
        (b"\xff\xfe\x00\x00a\x00\x00\x00", "utf-32-le", 4),
        (b"\x00\x00\xfe\xff\x00\x00\x00a", "utf-32-be", 4),
        (b"a", "cp1252", 0),
        (b"", "cp1252", 0),
    ],
)
def test_a_byte_order_mark_comes_before_the_option(head, name, mark):
    assert file_encoding(head, "windows-1252") == FileEncoding(name, mark)


def test_encodings_with_a_mark_are_read_without_one():
    assert [file_encoding(b"a", name).name for name in ("utf-8-sig", "UTF-16", "utf_32")] == [
        "utf-8", "utf-16-le", "utf-32-le"
    ]  # fmt: skip


def test_wide_text_without_a_mark_is_recognised_and_other_zero_bytes_are_not():
    text = "Some words of a text."
    for encoding in ENCODINGS[1:]:
        assert unmarked_wide_encoding(text.encode(encoding)) == encoding
    for content in (
        text.encode(),
        b"",
        b"a\x00b\x00" + text.encode(),
        b"\x00" * 40,
        "\u4e01\u4e8c".encode("utf-16-le"),
    ):
        assert unmarked_wide_encoding(content) is None


def parts_of(text: str, most: int, encoding: str = "utf-8") -> tuple[list[str], Documents]:
    content = text.encode(encoding)
    kind = FileEncoding(encoding)
    found = cut_documents(
        find_documents([content], kind, "paragraphs"), kind, lambda first, last: content[first:last], most
    )
    return [content[a:b].decode(encoding) for a, b in zip(found.first, found.last, strict=True)], found


def joined(parts: list[str], found: Documents) -> list[str]:
    whole: list[str] = []
    for part, joint in zip(parts, found.joint.tolist(), strict=True):
        if joint == NO_JOINT:
            whole.append(part)
        else:
            whole[-1] += part if joint == INSIDE_WORD else chr(joint) + part
    return whole


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "text",
    [
        "short\n\n" + "word other words " * 30 + "end\n\nshort",
        "line of words\n" * 40,
        "line of words\r\n" * 40,
        "\u00e4\u4e00\U0001f600" * 60,
        "a  b   c " * 50 + "\n\n" + "x" * 300,
        "\u3000\u4e00\u2003b \u00a0c \u3000d " * 20,
    ],
)
def test_parts_of_a_long_document_make_the_whole(text, encoding):
    width = FileEncoding(encoding).width
    for most in (40 * width, 64 * width):
        parts, found = parts_of(text, most, encoding)
        assert joined(parts, found) == parts_of(text, 10**6, encoding)[0]
        assert max(len(part.encode(encoding)) for part in parts) <= most
        assert [part for part in found.part.tolist() if part] and set(found.number.tolist()) <= {1, 2, 3}


def test_parts_begin_and_end_with_words():
    parts, found = parts_of("one two  three \nfour\tfive\nsix seven " * 40, 100)
    inner = [joint for joint in found.joint.tolist() if joint != NO_JOINT]
    assert inner and set(inner) <= {ord(" "), ord("\n")}
    assert all(part == part.strip() for part in parts[:-1])
    assert found.part.tolist() == list(range(1, len(parts) + 1))


def test_a_word_of_ten_thousand_letters_is_found_wherever_it_lies():
    word = "a1\u00e9" * (LONG_WORD // 3 + 1)
    for before in (0, 1, LONG_WORD - 1, LONG_WORD, 3 * LONG_WORD // 2):
        assert has_long_word("- " * (before // 2) + word + " end")
        assert not has_long_word("- " * (before // 2) + word[: LONG_WORD - 1] + " " + word[: LONG_WORD - 1])
    assert not has_long_word("-" * 3 * LONG_WORD) and not has_long_word("")
