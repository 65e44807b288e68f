"""Sentences of a corpus that name a concept.

A word is found in its singular and plural, in lower case only: "Teddy" is a name, and "teddy" is a toy. A sentence
that names two concepts is kept apart from those that name one, since it would relate the two by itself.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


IRREGULAR = {"goose": "geese", "ox": "oxen", "mouse": "mice", "man": "men", "woman": "women", "child": "children",
             "foot": "feet", "tooth": "teeth", "person": "people", "sheep": "sheep", "fish": "fish"}  # fmt: skip
WORDS = re.compile(r"[A-Za-z]+")
SENTENCE_ENDS = re.compile(r"(?<=[.!?;])[\"'”’)]*\s+")


def forms(word: str) -> set[tuple[str, ...]]:
    """Return the singular and plural of a word or of a phrase, as tuples of words.

    Args:
        word: Such as "dog" or "ice cream"; the last of several words takes the plural.
    """
    *before, last = WORDS.findall(word.lower())
    plurals = {last + "s"}
    if last in IRREGULAR:
        plurals = {IRREGULAR[last]}
    elif re.search(r"(s|x|z|ch|sh|o)$", last):
        plurals |= {last + "es"}
    elif re.search(r"[^aeiou]y$", last):
        plurals = {last[:-1] + "ies"}
    elif re.search(r"(?<!f)fe?$", last):
        plurals |= {re.sub(r"fe?$", "ves", last)}
    return {(*before, form) for form in {last, *plurals}}


def span_of(sentence: str, word: str) -> tuple[int, int] | None:
    """Return where a sentence names a word first, as (start, end) in characters; None if it does not.

    Capital letters count as small ones here, since templates and files of sentences may start with the word.
    """
    tokens = list(WORDS.finditer(sentence))
    lower = [token.group().lower() for token in tokens]
    wanted = forms(word)
    for start in range(len(tokens)):
        for form in wanted:
            if tuple(lower[start : start + len(form)]) == form:
                return tokens[start].start(), tokens[start + len(form) - 1].end()
    return None


def sentences_of(text: str, shortest: int = 5, longest: int = 30) -> Iterator[str]:
    """Yield the sentences of a text that have `shortest` to `longest` words."""
    for sentence in SENTENCE_ENDS.split(text):
        sentence = sentence.strip(" \"'”“’‘")
        if shortest <= len(WORDS.findall(sentence)) <= longest:
            yield sentence


def stable_order(text: str) -> str:
    """Return a key that sorts texts in an order that depends on nothing but the texts."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Found:
    """Sentences that name a word.

    Attributes:
        count: All of them.
        kept: (order, sentence, source) of those that are kept, the first ones in the order of their hashes.
    """

    count: int = 0
    kept: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, sentence: str, source: str, limit: int) -> None:
        """Count a sentence, and keep it if it is among the first `limit`."""
        self.count += 1
        entry = (-int(stable_order(sentence)[:15], 16), sentence, source)
        if len(self.kept) < limit:
            heapq.heappush(self.kept, entry)
        elif entry > self.kept[0]:
            heapq.heapreplace(self.kept, entry)

    def ordered(self) -> list[tuple[str, str]]:
        """Return (sentence, source) in the order of the hashes, without repetitions."""
        return list(dict.fromkeys((sentence, source) for _, sentence, source in sorted(self.kept, reverse=True)))


class SentenceFinder:
    """Finds the words that a sentence names.

    Args:
        words: Words and phrases. Where one is a part of another ("car", "freight car"), the longer one is found.
    """

    def __init__(self, words: Sequence[str]):
        self.by_form = {form: word for word in words for form in forms(word)}
        self.longest = max(map(len, self.by_form), default=0)

    def named(self, sentence: str) -> list[str]:
        """Return the words that a sentence names, once for each time."""
        tokens = WORDS.findall(sentence)
        found, start = [], 0
        while start < len(tokens):
            for length in range(min(self.longest, len(tokens) - start), 0, -1):
                word = self.by_form.get(tuple(tokens[start : start + length]))
                if word is not None:
                    found.append(word)
                    start += length - 1
                    break
            start += 1
        return found

    def search(self, texts: Iterable[tuple[str, str]], limit: int = 500, alone: bool = False) -> dict[str, Found]:
        """Return the sentences of each word.

        Args:
            texts: Pairs of a text and its source, such as the title of a book.
            limit: Sentences kept of a word.
            alone: Whether to leave out sentences that name several of the words, or one of them twice.
        """
        found = {word: Found() for word in self.by_form.values()}
        for text, source in texts:
            for sentence in sentences_of(text):
                named = self.named(sentence)
                if alone and len(named) != 1:
                    continue
                for word in dict.fromkeys(named):
                    found[word].add(sentence, source, limit)
        return found
