"""Texts are cut where tokenizers split words anyway."""

import pytest

from d2v_train.inputs.long_texts import cut_text, head_of_text
from d2v_train.inputs.tokenizer import build_tokenizer


TEXTS = [
    "Some words, and more of them: it's  two  spaces.\n\nAnd\tlines \n of 12 345 words! " * 9,
    "\u4f60\u597d\u3002 \u3053\u3093\n\u3000\u306b\u3061\u306f \u00a0na\u00efve \U0001f600 " * 20,
    "\n".join("word" * (number % 5 + 1) for number in range(90)),
    "   spaces\n\n\n   before words   \n" * 12,
]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_have_the_tokens_of_the_whole(text):
    tokenizer = build_tokenizer([text] * 3, 330)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    for most in (30, 47, 100, 10_000):
        pieces = list(cut_text(text, most))
        assert "".join(pieces) == text and max(map(len, pieces)) <= most
        assert [
            token for piece in pieces for token in tokenizer(piece, add_special_tokens=False)["input_ids"]
        ] == whole


def test_a_word_without_end_is_cut_all_the_same():
    assert list(cut_text("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(cut_text(" " * 2500, 1000)) == [" " * 1000, " " * 1000, " " * 500]
    assert list(cut_text("", 10)) == [""] and list(cut_text("a b", 3)) == ["a b"]
    assert head_of_text("one two three", 8) == "one two" and head_of_text("one", 8) == "one"
