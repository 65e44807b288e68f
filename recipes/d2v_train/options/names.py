"""Search for the option that an unknown name probably means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from itertools import pairwise


MOSTLY, BEGINNING, DESCRIBED, MISSPELLED = 0.5, 0.85, 0.6, 0.75
"""Share of the words that must be found; score of the beginning of a word, and of a word in the description; lowest
similarity of a misspelled word."""


def nearest_name(name: str, known: Mapping[str, str]) -> str | None:
    """Return the known name that has most words of an unknown one and fewest others.

    The order of words does not matter: `lr` finds `optim.lr`, `log_every` finds `logging.every`, and `model.layers`
    finds `model.num_hidden_layers`. A word in the description counts less. If no name has most of the words, the one
    with the most similar spelling is returned.

    Args:
        name: Dotted name.
        known: Descriptions by dotted name.
    """
    wanted = _words(name)

    def likeness(other: str) -> tuple[float, int, float]:
        words, described = _words(other), _words(known[other])
        joined = [first + second for first, second in pairwise(words)]  # batchsize
        found = [max([_similarity(word, each) for each in words + joined] + [DESCRIBED * (word in described)])
                 for word in wanted]  # fmt: skip
        share = round(sum(found) / max(len(found), 1), 2)
        spelling = SequenceMatcher(None, name, other).ratio()
        return (share, -len(words), spelling) if share > MOSTLY else (0.0, 0, spelling)

    return max(known, key=likeness, default=None)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _similarity(word: str, other: str) -> float:
    """Return 1 for the same word, less for one that begins with the other or is misspelled, 0 for others."""
    if word == other:
        return 1.0
    if min(len(word), len(other)) >= 3 and (word.startswith(other) or other.startswith(word)):
        return BEGINNING
    ratio = SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= MISSPELLED else 0.0
