"""Transcripts as labels for CTC: normalised text, what normalisation makes equal, and labels of a tokenizer."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from d2v_train.finetuning.speech.casing import DOTTED_LETTERS, change_case, has_dotted_i
from d2v_train.finetuning.speech.vocabulary import (
    CHARACTER,
    Vocabulary,
    build_ctc_tokenizer,
    case_of,
    load_ctc_tokenizer,
)
from d2v_train.inputs.tokenizer import WORD_DELIMITER


__all__ = [
    "Normaliser",
    "build_ctc_tokenizer",
    "case_of",
    "decode_frames",
    "decode_labels",
    "encode",
    "load_ctc_tokenizer",
    "merges_of",
    "unknown_characters",
]

SHOWN_MERGES = 5
"""Number of examples in a message."""


@dataclass(frozen=True)
class Normaliser:
    """Normalisation of transcripts: composed characters, one case, one space between words or phonemes.

    Args:
        lower_case: Lower case instead of upper case; `None` keeps the case.
        ignored: Characters to remove.
        language: Code of the language, for its rules of upper and lower case.
        unit: "character" or "phoneme". Of phonemes, word delimiters at the ends and repeated ones are removed.
        delimiter: Token between words, which becomes a space among characters.
        known: Characters of a given vocabulary, see `change_case`.
    """

    lower_case: bool | None = False
    ignored: str = ""
    language: str | None = None
    unit: str = CHARACTER
    delimiter: str = WORD_DELIMITER
    known: frozenset[str] | None = None

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        if self.unit == CHARACTER:
            text = text.replace(self.delimiter, " ")
        text = self.cased(self.without_ignored(text))
        if self.unit == CHARACTER:
            return " ".join(text.split())
        tokens = [""]
        for token in text.split():
            if token != self.delimiter or tokens[-1] not in ("", self.delimiter):
                tokens.append(token)
        return " ".join(tokens[1:-1] if tokens[-1] == self.delimiter else tokens[1:])

    def without_ignored(self, text: str) -> str:
        """Return a text without the characters to remove."""
        return text.translate({ord(character): None for character in self.ignored}) if self.ignored else text

    def cased(self, text: str) -> str:
        """Return a text in the case of the normalisation."""
        return text if self.lower_case is None else change_case(text, self.lower_case, self.language, self.known)


def merges_of(texts: Sequence[str], normalise: Normaliser) -> list[str]:
    """Return a sentence for each step of a normalisation that makes different words of transcripts equal.

    Args:
        texts: Transcripts.
        normalise: Their normalisation.
    """
    found = []
    composed = [unicodedata.normalize("NFC", text) for text in texts]
    delimiters = sum(text.count(normalise.delimiter) for text in composed)
    if normalise.unit == CHARACTER and delimiters:
        found.append(
            f"{normalise.delimiter!r} occurs {delimiters:,} times in the transcripts and is read as a space, since it "
            "is the word delimiter; --word_delimiter names another one, and --unit phoneme keeps it between phonemes."
        )
    words = Counter(
        word for text in composed for word in replace(normalise, lower_case=None, ignored="")(text).split()
    )
    if normalise.ignored:
        # At the ends of words these are punctuation; inside they may distinguish words. Of phonemes they are parts.
        inner = _renamed(words, lambda word: word.strip(normalise.ignored)) if normalise.unit == CHARACTER else words
        merged = _merged(inner, normalise.without_ignored)
        if merged:
            found.append(f"--chars_to_ignore {_report(merged)}.")
        words = _renamed(inner, normalise.without_ignored)
    if normalise.lower_case is None:
        return found
    case = "lower" if normalise.lower_case else "upper"
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    merged_letters, merged = _merged(letters, normalise.cased), _merged(words, normalise.cased)
    if merged:
        found.append(f"{case.capitalize()} case {_report(merged)}. --case keep keeps them apart.")
    elif merged_letters:
        found.append(f"{case.capitalize()} case {_report(merged_letters, 'letters')}. --case keep keeps them apart.")
    dotted = sum(letters[letter] for letter in DOTTED_LETTERS)
    if dotted and not has_dotted_i(normalise.language):
        found.append(
            f"The transcripts contain the letters ı or İ {dotted:,} times, which have the case of another letter than "
            f"elsewhere. {case.capitalize()} case without their language may make i and ı one: --language tr (or "
            "another code) changes it right, --case keep not at all."
        )
    return found


def _renamed(counts: Counter[str], function: Callable[[str], str]) -> Counter[str]:
    renamed: Counter[str] = Counter()
    for word, count in counts.items():
        renamed[function(word)] += count
    return renamed


def _merged(counts: Counter[str], function: Callable[[str], str]) -> list[list[tuple[str, int]]]:
    """Return the groups of words that a function makes equal, most frequent first, the clearest group first."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for word, count in counts.most_common():
        groups.setdefault(function(word), []).append((word, count))
    groups.pop("", None)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: -group[1][1])


def _report(groups: list[list[tuple[str, int]]], what: str = "words") -> str:
    equal = " = "
    shown = ", ".join(equal.join(f"{word} ({count:,})" for word, count in group) for group in groups[:SHOWN_MERGES])
    number = sum(map(len, groups))
    return f"makes {number:,} {what} of the transcripts into {len(groups):,}, such as {shown}"


def encode(texts: Sequence[str], tokenizer: Any) -> list[np.ndarray]:
    """Return the label ids of normalised texts, one int64 array each."""
    vocabulary = Vocabulary(tokenizer)
    return [vocabulary.encode(text) for text in texts]


def unknown_characters(texts: Iterable[str], tokenizer: Any) -> Counter[str]:
    """Return the characters or phonemes of normalised texts that are not in the vocabulary, with their counts."""
    return Vocabulary(tokenizer).unknown_tokens(texts)


def decode_labels(labels: np.ndarray, tokenizer: Any) -> list[str]:
    """Return the texts of label ids (B, L) padded with -100; unknown characters become <unk> and count as errors."""
    vocabulary = Vocabulary(tokenizer)
    return [vocabulary.decode(row[row >= 0]) for row in np.asarray(labels)]


def decode_frames(ids: np.ndarray, tokenizer: Any) -> list[str]:
    """Decode the best token of each frame (B, T), padded with blanks or -100, by greedy CTC decoding.

    Repeated tokens are merged, then blanks are removed, as in the speech recognition pipeline.
    """
    vocabulary = Vocabulary(tokenizer)
    return [vocabulary.decode_frames(row) for row in np.where(np.asarray(ids) < 0, vocabulary.blank, ids)]
