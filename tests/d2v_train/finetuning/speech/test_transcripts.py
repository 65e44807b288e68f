"""From what is written to labels, and from the best token of each frame to text."""

import re

import numpy as np
import pytest
from transformers import AutoTokenizer

from d2v_train.finetuning.speech.transcripts import (
    Normaliser,
    build_ctc_tokenizer,
    case_of,
    decode_frames,
    decode_labels,
    encode,
    load_ctc_tokenizer,
    merges_of,
    unknown_characters,
)


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "  It's\ta  test ", "IT'S A TEST"),
        ({"lower_case": True}, "It's A Test", "it's a test"),
        ({"lower_case": None}, "It's A Test", "It's A Test"),
        ({"ignored": ",.!"}, "Yes, no . !", "YES NO"),
        ({}, "a|b", "A B"),
        ({}, "e\u0301t\u00e9", "\u00c9T\u00c9"),
        ({}, " \n", ""),
    ],
)
def test_normalised_texts(settings, text, expected):
    assert Normaliser(**settings)(text) == expected


def test_a_vocabulary_is_ordered_by_frequency_and_comes_back_from_a_folder(tmp_path):
    tokenizer = build_ctc_tokenizer(["BAB A", "BBC'"])
    assert tokenizer.get_vocab() == {
        "<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "B": 5, "A": 6, "'": 7, "C": 8,
    }  # fmt: skip
    assert tokenizer.pad_token_id == 0 and tokenizer.word_delimiter_token_id == 4
    tokenizer.save_pretrained(tmp_path)
    again = load_ctc_tokenizer(str(tmp_path))
    assert again.get_vocab() == tokenizer.get_vocab() and len(again) == 9
    assert AutoTokenizer.from_pretrained(tmp_path)("AB C").input_ids == [6, 5, 4, 8]


def test_no_characters_no_vocabulary():
    with pytest.raises(ValueError, match="characters"):
        build_ctc_tokenizer(["", " "])


def test_a_tokenizer_of_another_kind_is_not_taken(tmp_path):
    from d2v_train.inputs.tokenizer import build_tokenizer

    build_tokenizer(["some text"], 300).save_pretrained(tmp_path)
    assert load_ctc_tokenizer(str(tmp_path)) is None
    with pytest.raises(ValueError, match="Wav2Vec2CTCTokenizer"):
        load_ctc_tokenizer(str(tmp_path), required=True)


@pytest.mark.parametrize(("text", "expected"), [("ABC'", False), ("abc'", True), ("Abc", None), ("漢字", None)])
def test_the_case_of_a_vocabulary(text, expected):
    assert case_of(build_ctc_tokenizer([text])) is expected


def test_unknown_characters_are_counted_and_read_as_unknown():
    tokenizer = build_ctc_tokenizer(["ABC"])
    assert unknown_characters(["AX X", "BY"], tokenizer) == {"X": 2, "Y": 1}
    (ids,) = encode(["AXB"], tokenizer)
    assert ids.dtype == np.int64 and decode_labels(ids[None], tokenizer) == ["A<unk>B"]


def test_labels_and_back():
    tokenizer = build_ctc_tokenizer(["HELLO WORLD"])
    texts = ["HELLO WORLD", "", "LOW"]
    encoded = encode(texts, tokenizer)
    assert [len(ids) for ids in encoded] == [11, 0, 3] and encode([], tokenizer) == []
    rows = np.full((3, 11), -100)
    for row, ids in zip(rows, encoded, strict=True):
        row[: len(ids)] = ids
    # Repeated letters stay: these are no frames.
    assert decode_labels(rows, tokenizer) == texts


def test_frames_are_collapsed_before_blanks_are_left_out():
    tokenizer = build_ctc_tokenizer(["HELO"])
    number = tokenizer.get_vocab() | {"_": 0}
    frames = ["HH_EELL_L_OO", "_|HE||_LLO_|", "____________"]
    ids = np.array([[number[letter] for letter in row] for row in frames])
    assert decode_frames(ids, tokenizer) == ["HELLO", "HE LO", ""]
    ids[0, 6:] = -100
    assert decode_frames(ids, tokenizer)[0] == "HEL"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("K AE T  | | S AE T ", "K AE T | S AE T"),
        ("| K | ", "K"),
        ("s S t_h \\|\\", "s S t_h \\|\\"),
    ],
)
def test_phonemes_keep_their_delimiters(text, expected):
    assert Normaliser(None, unit="phoneme")(text) == expected


@pytest.mark.parametrize(
    ("texts", "settings", "expected"),
    [
        (["s S t T", "s"], {}, [r"Upper case makes 4 words of the transcripts into 2, such as s \(2\) = S \(1\)"]),
        (["Ahl", "AHL Ahl"], {}, ["Upper case makes 2 words.*Ahl \\(2\\) = AHL \\(1\\)\\. --case keep"]),
        (["$A", "sa"], {}, ["Upper case makes 2 letters.*A \\(1\\) = a \\(1\\)"]),
        (["Maße", "Masse"], {"lower_case": False}, []),
        (["polish Polish"], {"lower_case": True}, ["Lower case makes 2 words"]),
        (["polish Polish"], {"lower_case": None}, []),
        (["ılık ilik"], {}, ["ı or İ 2 times.*--language tr"]),
        (["ılık ilik"], {"language": "tr"}, []),
        (["its it's, its."], {"ignored": "',."}, ["--chars_to_ignore makes 2 words.*its \\(2\\) = it's \\(1\\)"]),
        (["yes, yes"], {"ignored": ","}, []),
        (["AH0 AH1"], {"ignored": "01", "lower_case": None, "unit": "phoneme"}, ["AH0 \\(1\\) = AH1 \\(1\\)"]),
        (["a|b"], {}, ["'\\|' occurs 1 times.*--word_delimiter"]),
        (["a|b"], {"delimiter": "#"}, []),
        (["ALL IN CAPITALS"], {}, []),
    ],
)
def test_what_normalisation_makes_equal_is_told(texts, settings, expected):
    found = merges_of(texts, Normaliser(**settings))
    assert len(found) == len(expected)
    for sentence, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, sentence)
