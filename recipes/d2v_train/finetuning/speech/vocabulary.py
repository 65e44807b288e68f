"""Vocabularies of CTC: tokens of characters or of phonemes, the blank, unknown tokens and the word delimiter.

The tokens of a text with characters are its characters and the longer tokens of the vocabulary; a space is the word
delimiter. Phonemes are separated by spaces, and words by a token of their own: `K AE T | S AE T`.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer, Wav2Vec2PhonemeCTCTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from d2v_train.finetuning.speech.arguments import TOKEN_UNITS
from d2v_train.finetuning.speech.casing import change_case
from d2v_train.inputs.tokenizer import CTC_SPECIALS, WORD_DELIMITER


CHARACTER, PHONEME = TOKEN_UNITS
LONG_SHARE = 0.25
"""Share of tokens longer than a character from which a vocabulary is one of phonemes."""
_BRACKETED = re.compile(r"<.*>|\[.*\]")


class Vocabulary:
    """Conversion between normalised transcripts and the token ids of a CTC tokenizer.

    Args:
        tokenizer: `Wav2Vec2CTCTokenizer` or `Wav2Vec2PhonemeCTCTokenizer`.
        unit: "character" or "phoneme"; default: "phoneme" for a `Wav2Vec2PhonemeCTCTokenizer`, and where a quarter of
            the tokens are longer than a character, or one of them has characters that are no tokens.
        size: Number of tokens of the model, if it has fewer than the tokenizer, to which transformers adds missing
            special tokens; default: all.

    Attributes:
        ids: Id by token.
        blank: Id of the pad token, the blank of CTC.
        unknown: Id of unknown tokens; None if there is none.
        delimiter: Token between words; None if there is none.
        size: Number of tokens of the model.

    Raises:
        ValueError: If the tokenizer has no pad token, or two tokens with one id.
    """

    def __init__(self, tokenizer: Any, unit: str | None = None, size: int | None = None) -> None:
        self.tokenizer = tokenizer
        where = f"The vocabulary of {tokenizer.name_or_path or 'the tokenizer'}"
        ids = dict(tokenizer.encoder)
        taken = set(ids.values())
        # As in transformers, an added token does not replace one of the vocabulary.
        added = tokenizer.get_added_vocab().items()
        # transformers saves a missing word delimiter as the token "None".
        ids |= {token: number for token, number in added if number not in taken and token != str(None)}
        self.size = size or max(ids.values()) + 1
        self.ids = {token: number for token, number in ids.items() if number < self.size}
        twice = [number for number, count in Counter(self.ids.values()).items() if count > 1]
        if twice:
            tokens = [token for token, number in self.ids.items() if number == twice[0]]
            raise ValueError(f"{where} gives the id {twice[0]} to several tokens: {', '.join(map(repr, tokens))}.")
        self.tokens = {number: token for token, number in self.ids.items()}
        self.blank = self.ids.get(tokenizer.pad_token)
        if self.blank is None:
            raise ValueError(
                f"{where} has no pad token, which is the blank of CTC. Name one of its tokens as "
                '"pad_token" in tokenizer_config.json.'
            )
        self.unknown = self.ids.get(tokenizer.unk_token)
        named = getattr(tokenizer, "_word_delimiter_token", None)
        self.delimiter = next((token for token in (named, WORD_DELIMITER, " ") if token in self.ids), None)
        special = {*tokenizer.all_special_tokens, *CTC_SPECIALS, self.delimiter}
        self.written = [token for token in self.ids if token not in special]
        self.unit = unit or self._unit()
        longer = sorted((token for token in self.written if len(token) > 1), key=len, reverse=True)
        self._cut = re.compile("|".join([*map(re.escape, longer), "."]), re.DOTALL)

    def __len__(self) -> int:
        return self.size

    def _unit(self) -> str:
        if isinstance(self.tokenizer, Wav2Vec2PhonemeCTCTokenizer):
            return PHONEME
        plain = [token for token in self.written if not _BRACKETED.fullmatch(token)]
        longer = [token for token in plain if _letters(token) > 1]
        spelled = all(character in self.ids for token in longer for character in token)
        return PHONEME if longer and (not spelled or len(longer) >= LONG_SHARE * len(plain)) else CHARACTER

    def cut(self, text: str) -> list[str]:
        """Return the tokens of a normalised text, whether or not they are in the vocabulary."""
        if self.unit == PHONEME:
            return text.split()
        if getattr(self.tokenizer, "do_lower_case", False):  # of output, whose tokens are in upper case
            text = text.upper()
        text = text.replace(" ", self.delimiter or "")
        return self._cut.findall(text)

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a normalised text, int64; unknown tokens are left out where the vocabulary has no id."""
        found = [self.ids.get(token, self.unknown) for token in self.cut(text)]
        return np.array([number for number in found if number is not None], dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; blanks are left out."""
        tokens = [
            self.tokens.get(int(number), str(self.tokenizer.unk_token)) for number in ids if number != self.blank
        ]
        if self.unit == PHONEME:
            return " ".join(tokens)
        text = "".join(" " if token == self.delimiter else token for token in tokens).strip()
        return text.lower() if getattr(self.tokenizer, "do_lower_case", False) else text

    def decode_frames(self, ids: Iterable[int]) -> str:
        """Return the text of the best token of each frame: repeated ones are merged, then blanks are left out."""
        return self.decode(number for number, _ in groupby(ids))

    def words(self, text: str) -> list[list[str]] | None:
        """Return the phonemes of each word of a text; None if the vocabulary has no word delimiter."""
        if self.delimiter is None:
            return None
        return [list(word) for real, word in groupby(text.split(), lambda token: token != self.delimiter) if real]

    def unknown_tokens(self, texts: Iterable[str]) -> Counter[str]:
        """Return the tokens of normalised texts that are not in the vocabulary, with their counts."""
        return Counter(token for text in texts for token in self.cut(text) if token not in self.ids)


def _letters(token: str) -> int:
    """Return the number of characters of a token without combining marks."""
    return sum(not unicodedata.combining(character) for character in unicodedata.normalize("NFC", token))


def build_ctc_tokenizer(texts: Iterable[str], unit: str = CHARACTER, delimiter: str = WORD_DELIMITER) -> Any:
    """Build a tokenizer of the characters or phonemes of normalised texts, sorted by frequency.

    Args:
        texts: Normalised texts.
        unit: "character" or "phoneme".
        delimiter: Token between words; phonemes have one only if it occurs.

    Returns:
        `Wav2Vec2CTCTokenizer`, or `Wav2Vec2PhonemeCTCTokenizer` whose input are phonemes.

    Raises:
        ValueError: If the texts contain no characters.
    """
    counts = Counter(token for text in texts for token in (text.split() if unit == PHONEME else text.replace(" ", "")))
    if not counts.keys() - {delimiter}:
        raise ValueError(f"The training transcripts contain no {unit}s; a vocabulary cannot be built from them.")
    has_words = unit == CHARACTER or delimiter in counts
    written = sorted(counts.keys() - {delimiter, *CTC_SPECIALS}, key=lambda token: (-counts[token], token))
    vocabulary = [*CTC_SPECIALS, *[delimiter] * has_words, *written]
    return _tokenizer({token: number for number, token in enumerate(vocabulary)}, unit, delimiter)


def phoneme_tokenizer(vocabulary: Vocabulary) -> Any:
    """Return the tokenizer of a vocabulary of phonemes, which reads and writes them with spaces."""
    given = vocabulary.tokenizer
    if isinstance(given, Wav2Vec2PhonemeCTCTokenizer) and not given.do_phonemize:
        return given
    names = {name: getattr(given, name) for name in ("pad_token", "unk_token", "bos_token", "eos_token")}
    known = {name: str(token) if token in vocabulary.ids else None for name, token in names.items()}
    return _tokenizer(vocabulary.ids, PHONEME, **known)


def _tokenizer(ids: Mapping[str, int], unit: str, delimiter: str = WORD_DELIMITER, **specials: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(dict(ids), ensure_ascii=False), encoding="utf-8")
        if unit == CHARACTER:
            return Wav2Vec2CTCTokenizer(str(path), word_delimiter_token=delimiter, **specials)
        # Without `word_delimiter_token`, which transformers leaves out of decoded texts.
        return Wav2Vec2PhonemeCTCTokenizer(str(path), do_phonemize=False, **specials)


def load_ctc_tokenizer(name: str, required: bool = False, **hub_options: Any) -> Any:
    """Load the CTC tokenizer of a folder or of the Hub, `None` if there is none.

    Args:
        name: Folder or name on the Hub.
        required: Whether to raise an error instead of returning `None`.
        hub_options: Arguments of `from_pretrained`.

    Raises:
        ValueError: If it is required and does not exist, or cannot be loaded.
    """
    found = get_tokenizer_config(name, **hub_options).get("tokenizer_class") or ""
    if found.endswith("CTCTokenizer"):
        try:
            return AutoTokenizer.from_pretrained(name, **hub_options)
        except Exception as error:  # its files decide which
            raise ValueError(
                f"The tokenizer of {name} cannot be loaded ({type(error).__name__}: {error}). Its vocab.json "
                'must hold the id of each token; one of several languages needs "target_lang" in '
                "tokenizer_config.json."
            ) from error
    if required:
        has = f"a {found}" if found else "no tokenizer"
        raise ValueError(f"{name} has {has}; speech recognition needs a Wav2Vec2CTCTokenizer.")
    return None


def case_of(tokenizer: Any) -> bool | None:
    """Return whether the letters of a vocabulary are lower (True) or upper case (False); `None` for both or none."""
    letters = [token for token in tokenizer.get_vocab() if len(token) == 1]
    has_small = any(change_case(letter, lower=False) != letter for letter in letters)
    has_capitals = any(change_case(letter, lower=True) != letter for letter in letters)
    return has_small if has_small != has_capitals else None
