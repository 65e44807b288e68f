"""Dictionaries of fairseq become tokenizers whose ids are the rows of the model."""

import json

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from d2v_train.converting.dictionaries import bpe_tokenizer, letter_tokenizer, read_dictionary


LETTERS = "| 94802\nE 51860\nT 38431\nA 33152\nO 31495\n"


@pytest.fixture
def letters(tmp_path):
    file = tmp_path / "dict.ltr.txt"
    file.write_text(LETTERS)
    return read_dictionary(file)


@pytest.fixture
def bpe(tmp_path):
    """GPT-2's two files in small: the 256 bytes, two merges; and a dictionary that lists their ids by frequency."""
    tokens = [*sorted(ByteLevel.alphabet()), "lo", "low", "er", "Ġlow"]
    (tmp_path / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nl o\nlo w\ne r\nĠ low\n")
    order = list(reversed(range(len(tokens))))
    (tmp_path / "dict.txt").write_text("".join(f"{i} {9999 - i}\n" for i in order) + "madeupword0000 0\n")
    files = tmp_path / "encoder.json", tmp_path / "vocab.bpe"
    return read_dictionary(tmp_path / "dict.txt"), files, tokens


def test_symbols_follow_the_special_ones(letters):
    assert letters == ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A", "O"]


def test_letters(letters, tmp_path):
    letter_tokenizer(letters, 9).save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("TEA TO").input_ids == [6, 5, 7, 4, 6, 8]
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert special == [0, 1, 2, 3]
    # Row 0 is the blank of fairseq's CTC: it separates equal letters and disappears.
    assert tokenizer.decode([6, 6, 0, 5, 5, 0, 5, 4, 4, 7, 0]) == "TEE A"


def test_bytes(bpe, tmp_path):
    symbols, files, tokens = bpe
    rows = len(symbols) + 1
    bpe_tokenizer(symbols, *files, rows, max_length=30).save_pretrained(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert len(tokenizer) == rows and tokenizer.model_max_length == 30
    row = {token: symbols.index(str(i)) for i, token in enumerate(tokens)}
    ids = tokenizer("low lower").input_ids
    assert ids == [0, row["low"], row["Ġlow"], row["er"], 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "low lower"
    assert tokenizer("low<mask>").input_ids == [0, row["low"], rows - 1, 2] and tokenizer.mask_token_id == rows - 1
    assert tokenizer("low", "er").input_ids == [0, row["low"], 2, 2, row["er"], 2]
    assert tokenizer(["low", "low low"], padding=True).input_ids[0][-1] == 1 == tokenizer.pad_token_id
    text = "Größe — 東京 🚲\n\t x"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_tokens_that_the_dictionary_lacks_stay_in_pieces(bpe):
    symbols, files, tokens = bpe
    rare = str(tokens.index("low"))
    fewer = [symbol for symbol in symbols if symbol != rare]
    tokenizer = bpe_tokenizer(fewer, *files, len(fewer) + 1)
    assert tokenizer.convert_ids_to_tokens(tokenizer("low").input_ids) == ["<s>", "lo", "w", "</s>"]


def test_dictionaries_of_another_model(letters, bpe):
    with pytest.raises(ValueError, match="9 symbols.*32"):
        letter_tokenizer(letters, 32)
    symbols, files, _ = bpe
    with pytest.raises(ValueError, match="50265"):
        bpe_tokenizer(symbols, *files, 50265)
    with pytest.raises(ValueError, match="0 of the 10"):
        bpe_tokenizer(letters, *files, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("E 12\nT\n", "Line 2.*'T'"),
        ("E twelve\n", "symbol count"),
        ("E 1\nE 2\n", "'E'"),
        ("<pad> 1\n", "'<pad>'"),
    ],
)
def test_files_that_are_no_dictionaries(text, message, tmp_path):
    file = tmp_path / "dict.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_dictionary(file)


def test_flags_of_fairseq(tmp_path):
    file = tmp_path / "dict.txt"
    file.write_text("<pad> 1 #fairseq:overwrite\na b 3\n")
    assert read_dictionary(file) == ["<s>", "<pad>", "</s>", "<unk>", "a b"]


def test_files_that_do_not_exist_or_are_of_another_kind(bpe, tmp_path):
    symbols, (encoder, merges), _ = bpe
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_dictionary(tmp_path / "nothing")
    with pytest.raises(ValueError, match="JSON"):
        bpe_tokenizer(symbols, merges, encoder, len(symbols) + 1)
    merges.write_text("a b c\n")
    with pytest.raises(ValueError, match="pairs"):
        bpe_tokenizer(symbols, encoder, merges, len(symbols) + 1)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_dictionary(tmp_path / "binary")


@pytest.mark.parametrize("symbol", ["\u2028", "\x85", "a\u2029b", "\x0b", "\x1c"])
def test_symbols_may_be_line_separators_of_unicode(symbol, tmp_path):
    path = tmp_path / "dict.txt"
    path.write_bytes(f"{symbol} 12\r\nb 3\n".encode())
    assert read_dictionary(path)[4:] == [symbol, "b"]
