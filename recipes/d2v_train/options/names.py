"""The option that an unknown name probably means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from itertools import pairwise


MOSTLY, BEGINNING, DESCRIBED, MISSPELLED = 0.5, 0.85, 0.6, 0.75
"""Share of the words that must be found; what the beginning of a word counts, and a word of the description; least
similarity of a misspelled word."""


def nearest_name(name: str, known: Mapping[str, str]) -> str | None:
    """Return the known name that has most words of an unknown one and fewest others.

    Words are looked for wherever they stand, so that `lr` finds `optim.lr`, `log_every` finds `logging.every`, and
    `model.layers` finds `model.num_hidden_layers`. A word that only the description holds counts too, though less.
    Where no name has most of the words, the one that is spelled most alike is returned.

    Args:
        name: with dots.
        known: descriptions by dotted name.
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
    """Return 1 for the same word, almost as much for one that begins with the other, less for a misspelled one."""
    if word == other:
        return 1.0
    if min(len(word), len(other)) >= 3 and (word.startswith(other) or other.startswith(word)):
        return BEGINNING
    ratio = SequenceMatcher(None, word, other).ratio()
    return ratio if ratio >= MISSPELLED else 0.0
