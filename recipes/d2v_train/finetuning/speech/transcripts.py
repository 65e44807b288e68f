"""Transcripts as labels for CTC: normalised text, vocabulary of characters and tokenizer."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, Wav2Vec2CTCTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from d2v_train.inputs.tokenizer import CTC_SPECIALS, WORD_DELIMITER


@dataclass(frozen=True)
class Normaliser:
    """Normalisation of transcripts: composed characters, one case, one space between words.

    Args:
        lower_case: Lower case instead of upper case; `None` keeps the case.
        ignored: Characters to remove.
    """

    lower_case: bool | None = False
    ignored: str = ""

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text).replace(WORD_DELIMITER, " ")
        if self.ignored:
            text = text.translate({ord(character): None for character in self.ignored})
        if self.lower_case is not None:
            text = text.lower() if self.lower_case else text.upper()
        return " ".join(text.split())


def build_ctc_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """Build a tokenizer of the characters of normalised texts, sorted by frequency.

    Raises:
        ValueError: If the texts contain no characters.
    """
    counts = Counter(character for text in texts for character in text if character != " ")
    if not counts:
        raise ValueError("The training transcripts contain no characters; a vocabulary cannot be built from them.")
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    vocabulary = {token: number for number, token in enumerate([*CTC_SPECIALS, WORD_DELIMITER, *characters])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(path), word_delimiter_token=WORD_DELIMITER)


def load_ctc_tokenizer(name: str, required: bool = False, **hub_options: Any) -> Wav2Vec2CTCTokenizer | None:
    """Load the CTC tokenizer of a folder or of the Hub, `None` if there is none.

    Args:
        name: Folder or name on the Hub.
        required: Whether to raise an error instead of returning `None`.
        hub_options: Arguments of `from_pretrained`.

    Raises:
        ValueError: If it is required and does not exist.
    """
    found = get_tokenizer_config(name, **hub_options).get("tokenizer_class") or ""
    if found.endswith("CTCTokenizer"):
        return AutoTokenizer.from_pretrained(name, **hub_options)
    if required:
        has = f"a {found}" if found else "no tokenizer"
        raise ValueError(f"{name} has {has}; speech recognition needs a Wav2Vec2CTCTokenizer.")
    return None


def case_of(tokenizer: Wav2Vec2CTCTokenizer) -> bool | None:
    """Return whether the letters of a vocabulary are lower (True) or upper case (False); `None` for both or none."""
    letters = [token for token in tokenizer.get_vocab() if len(token) == 1]
    has_small = any(letter != letter.upper() for letter in letters)
    has_capitals = any(letter != letter.lower() for letter in letters)
    return has_small if has_small != has_capitals else None


def unknown_characters(texts: Iterable[str], tokenizer: Wav2Vec2CTCTokenizer) -> Counter[str]:
    """Return the characters of normalised texts that are not in the vocabulary, with their counts."""
    vocabulary = tokenizer.get_vocab()
    counts = Counter(character for text in texts for character in text if character != " ")
    return Counter({character: n for character, n in counts.items() if character not in vocabulary})


def encode(texts: Sequence[str], tokenizer: Wav2Vec2CTCTokenizer) -> list[np.ndarray]:
    """Return the label ids of normalised texts, one int64 array each."""
    return [np.asarray(ids, dtype=np.int64) for ids in tokenizer(list(texts)).input_ids] if texts else []


def decode_labels(labels: np.ndarray, tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """Return the texts of label ids (B, L) padded with -100; unknown characters become <unk> and count as errors."""
    return [tokenizer.decode(row[row >= 0], group_tokens=False) for row in labels]


def decode_frames(ids: np.ndarray, tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """Decode the best token of each frame (B, T), padded with blanks or -100, by greedy CTC decoding.

    Repeated tokens are merged, then blanks are removed, as in the speech recognition pipeline.
    """
    return tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids))
