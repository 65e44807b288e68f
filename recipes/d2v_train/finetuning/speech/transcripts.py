"""What is said in a recording as labels for CTC: normalised text, a vocabulary of characters, and its tokenizer."""

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
    """Text as the model is to write it: composed characters, one case, nothing ignored, one blank between words.

    Args:
        lower_case: small letters instead of capitals; `None` leaves the case as it is.
        ignored: characters to leave out.
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
    """A tokenizer of the characters of normalised texts, in the order of how often they occur.

    Raises:
        ValueError: if the texts hold no characters.
    """
    counts = Counter(character for text in texts for character in text if character != " ")
    if not counts:
        raise ValueError("The training transcripts hold no characters, so that there is no vocabulary to train with.")
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    vocabulary = {token: number for number, token in enumerate([*CTC_SPECIALS, WORD_DELIMITER, *characters])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.json"
        path.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(path), word_delimiter_token=WORD_DELIMITER)


def load_ctc_tokenizer(name: str, required: bool = False, **hub_options: Any) -> Wav2Vec2CTCTokenizer | None:
    """The tokenizer of a folder or of the Hub, or `None` where it has none for CTC.

    Args:
        name: folder or name on the Hub.
        required: raise an error instead of returning `None`.
        hub_options: arguments of `from_pretrained`.

    Raises:
        ValueError: if it is required and there is none.
    """
    found = get_tokenizer_config(name, **hub_options).get("tokenizer_class") or ""
    if found.endswith("CTCTokenizer"):
        return AutoTokenizer.from_pretrained(name, **hub_options)
    if required:
        has = f"a {found}" if found else "no tokenizer"
        raise ValueError(f"{name} has {has}; recognising speech takes a Wav2Vec2CTCTokenizer.")
    return None


def case_of(tokenizer: Wav2Vec2CTCTokenizer) -> bool | None:
    """Whether the letters of a vocabulary are small (True) or capitals (False); `None` if it has both, or none."""
    letters = [token for token in tokenizer.get_vocab() if len(token) == 1]
    has_small = any(letter != letter.upper() for letter in letters)
    has_capitals = any(letter != letter.lower() for letter in letters)
    return has_small if has_small != has_capitals else None


def unknown_characters(texts: Iterable[str], tokenizer: Wav2Vec2CTCTokenizer) -> Counter[str]:
    """Characters of normalised texts that the vocabulary lacks, with how often they occur."""
    vocabulary = tokenizer.get_vocab()
    counts = Counter(character for text in texts for character in text if character != " ")
    return Counter({character: n for character, n in counts.items() if character not in vocabulary})


def encode(texts: Sequence[str], tokenizer: Wav2Vec2CTCTokenizer) -> list[np.ndarray]:
    """Label ids of normalised texts, one int64 array each."""
    return [np.asarray(ids, dtype=np.int64) for ids in tokenizer(list(texts)).input_ids] if texts else []


def decode_labels(labels: np.ndarray, tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """Texts of label ids (B, L) padded with -100; what the vocabulary lacks reads <unk>, as an error to be."""
    return [tokenizer.decode(row[row >= 0], group_tokens=False) for row in labels]


def decode_frames(ids: np.ndarray, tokenizer: Wav2Vec2CTCTokenizer) -> list[str]:
    """Greedy CTC decoding of the best token of each frame (B, T), padded with blanks or -100.

    Repeated tokens become one, then blanks are left out, as in the speech recognition pipeline.
    """
    return tokenizer.batch_decode(np.where(ids < 0, tokenizer.pad_token_id, ids))
