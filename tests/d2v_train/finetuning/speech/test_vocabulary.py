"""Vocabularies of characters and of phonemes, with any names of their special tokens."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer

from d2v_train.finetuning.speech.vocabulary import (
    Vocabulary,
    build_ctc_tokenizer,
    load_ctc_tokenizer,
    phoneme_tokenizer,
)


ARPABET = ["AA", "AE", "B", "CH", "K", "T"]


def tokenizer_of(folder, tokens, kind=Wav2Vec2CTCTokenizer, **options):
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    return kind(str(path), **options)


def read(vocabulary, text) -> str:
    return vocabulary.decode(vocabulary.encode(text))


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (["<pad>", "<s>", "</s>", "<unk>", "|", *ARPABET], ["K AE T CH AA B", "K B T", "K AE T | B AA"]),
        (["<pad>", "<unk>", *ARPABET], ["K AE T CH AA B"]),
        (["<pad>", "<unk>", "|", "t", "ʃ", "tʃ", "a", "ɪ", "aɪ"], ["t aɪ t", "t ʃ | tʃ"]),  # spelt by other tokens
        (["<pad>", "<unk>", "s", "S", "t_h", "@", "r\\"], ["s t_h @ r\\ S"]),
        (["<pad>", "<unk>", "ni3", "hao3", "ma5"], ["ni3 hao3 ma5"]),
    ],
)
def test_phonemes_are_separated_by_spaces(tmp_path, tokens, texts):
    vocabulary = Vocabulary(tokenizer_of(tmp_path, tokens))
    assert vocabulary.unit == "phoneme"
    for text in texts:
        assert vocabulary.encode(text).tolist() == [tokens.index(token) for token in text.split()]
        assert read(vocabulary, text) == text
    assert not vocabulary.unknown_tokens(texts)
    assert vocabulary.unknown_tokens([f"{texts[0]} zz"]) == {"zz": 1} and read(vocabulary, "zz").strip() == "<unk>"


@pytest.mark.parametrize(
    ("tokens", "text", "count"),
    [
        (["<pad>", "<unk>", "|", *"abc"], "ab c", 4),
        (["<pad>", "<unk>", "|", *"chijklmnor", "ch"], "ich chor", 6),  # the space before a longer token stays
        (["<pad>", "<unk>", "|", *"ab", "[noise]", "<laugh>"], "ab [noise] a<laugh>", 7),
        (["<pad>", "<unk>", " ", *"ab"], "a b", 3),
        (["<pad>", "<unk>", "#", *"ab"], "a b", 3),
    ],
)
def test_texts_of_characters_come_back(tmp_path, tokens, text, count):
    options = {"word_delimiter_token": "#"} if "#" in tokens else {}
    vocabulary = Vocabulary(tokenizer_of(tmp_path, tokens, **options))
    assert vocabulary.unit == "character" and len(vocabulary.encode(text)) == count
    assert read(vocabulary, text) == text and not vocabulary.unknown_tokens([text])


def test_the_unit_can_be_given(tmp_path):
    tokens = ["<pad>", "<unk>", "|", *"abcdefgh", "ch"]
    given = tokenizer_of(tmp_path, tokens)
    assert Vocabulary(given).unit == "character" and Vocabulary(given, "phoneme").encode("ch a").tolist() == [11, 3]


def test_a_vocabulary_without_an_unknown_token(tmp_path):
    given = tokenizer_of(tmp_path, ["<pad>", "|", "A"], unk_token=None, bos_token=None, eos_token=None)
    vocabulary = Vocabulary(given)
    assert vocabulary.unknown is None and vocabulary.encode("AB A").tolist() == [2, 1, 2]
    assert vocabulary.unknown_tokens(["AB A", "BX"]) == {"B": 2, "X": 1} and read(vocabulary, "AB A") == "A A"


def test_a_vocabulary_without_a_word_delimiter_leaves_spaces_out(tmp_path):
    vocabulary = Vocabulary(tokenizer_of(tmp_path, ["<pad>", "<unk>", "A", "B"], word_delimiter_token=None))
    assert vocabulary.delimiter is None and vocabulary.encode("A B").tolist() == [2, 3]
    assert not vocabulary.unknown_tokens(["A B"])


def test_special_tokens_that_transformers_adds_are_not_those_of_the_model(tmp_path):
    given = tokenizer_of(tmp_path, ["<pad>", "|", "A"])
    assert len(given) == 6 and Vocabulary(given).size == 6
    vocabulary = Vocabulary(given, size=3)
    assert (vocabulary.size, vocabulary.unknown) == (3, None) and vocabulary.encode("AX").tolist() == [2]


def test_the_blank_has_any_name(tmp_path):
    vocabulary = Vocabulary(tokenizer_of(tmp_path, ["A", "[PAD]", "|", "[UNK]"], pad_token="[PAD]", unk_token="[UNK]"))
    assert (vocabulary.blank, vocabulary.unknown) == (1, 3)
    assert vocabulary.decode_frames([0, 0, 1, 0, 2, 1, 3]) == "AA [UNK]"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"<unk>": 0, "A": 1}, {"pad_token": None}, "no pad token"),
        ({"<pad>": 0, "<unk>": 1, "A": 2, "B": 2}, {}, "id 2 to several tokens: 'A', 'B'"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, content, options, message):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Vocabulary(Wav2Vec2CTCTokenizer(str(path), bos_token=None, eos_token=None, **options))


def test_a_vocabulary_of_several_languages_needs_one_of_them(tmp_path):
    tokenizer_of(tmp_path, ["<pad>", "|", "a"]).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({"eng": {"<pad>": 0, "a": 1}, "deu": {"<pad>": 0, "ä": 1}}))
    with pytest.raises(ValueError, match="target_lang"):
        load_ctc_tokenizer(str(tmp_path))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"target_lang": "deu"}))
    assert Vocabulary(load_ctc_tokenizer(str(tmp_path))).encode("ä").tolist() == [1]


def test_ids_with_gaps_fit_the_model(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"<pad>": 0, "<unk>": 2, "A": 7, "<s>": 1, "</s>": 3}))
    assert Vocabulary(Wav2Vec2CTCTokenizer(str(path))).size == 8


@pytest.mark.parametrize("texts", [["K AE T | S AE T", "B AA"], ["t_h @", "S s"], ["a | b | c"]])
def test_a_built_vocabulary_of_phonemes_comes_back_from_a_folder(tmp_path, texts):
    tokenizer = build_ctc_tokenizer(texts, "phoneme")
    assert isinstance(tokenizer, Wav2Vec2PhonemeCTCTokenizer)
    assert {token for text in texts for token in text.split()} < set(tokenizer.get_vocab())
    assert ("|" in tokenizer.get_vocab()) == any("|" in text for text in texts)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert Vocabulary(again).unit == "phoneme"
    for text in texts:
        assert again.decode(Vocabulary(again).encode(text)) == again.decode(again(text).input_ids) == text


def test_what_is_saved_reads_phonemes_as_the_labels_do(tmp_path):
    vocabulary = Vocabulary(tokenizer_of(tmp_path, ["<pad>", "<unk>", "|", *ARPABET]))
    saved = phoneme_tokenizer(vocabulary)
    assert saved.get_vocab().items() >= vocabulary.ids.items()
    assert saved.decode(vocabulary.encode("K AE T | B")) == "K AE T | B" and saved.pad_token_id == vocabulary.blank
    assert phoneme_tokenizer(Vocabulary(saved)) is saved


def test_words_of_phonemes(tmp_path):
    vocabulary = Vocabulary(tokenizer_of(tmp_path, ["<pad>", "<unk>", "|", *ARPABET]))
    assert vocabulary.words("K AE T | B AA") == [["K", "AE", "T"], ["B", "AA"]]
    alone = tokenizer_of(tmp_path, ["<pad>", "<unk>", *ARPABET], word_delimiter_token=None)
    assert Vocabulary(alone).words("K AE") is None


def test_labels_agree_with_transformers_on_plain_vocabularies():
    tokenizer = build_ctc_tokenizer(["HELLO WORLD", "IT'S"])
    vocabulary = Vocabulary(tokenizer)
    for text in ("HELLO WORLD", "IT'S X", "O", ""):
        assert vocabulary.encode(text).tolist() == tokenizer(text).input_ids
        ids = tokenizer(text).input_ids
        assert vocabulary.decode(ids) == tokenizer.decode(ids, group_tokens=False)
    frames = np.random.default_rng(0).integers(0, len(tokenizer), (5, 40))
    assert [vocabulary.decode_frames(row) for row in frames] == tokenizer.batch_decode(frames)
