"""Built-in sentences about digits: text that shares its classes with the built-in pictures and recordings of digits.

They are made from word lists, the same on every machine: people who do something with a number of things, and sums,
differences and neighbours among the numbers. The label is the last digit word of a sentence. Train and test share no
thing and no sum.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from d2v_train.data.builtin import DIGIT_WORDS
from d2v_train.data.rows import MemoryRows
from d2v_train.data.tables import Table


SENTENCES = {"train": 1400, "test": 300}
PEOPLE = ("she", "he", "Anna", "Paul", "the teacher", "the driver", "my sister", "his brother", "the farmer")
ACTIONS = "has sees buys sells finds draws counts carries wants brings keeps needs"
THINGS = {
    "train": "apples books chairs birds stones coins letters boats horses flowers keys lamps bottles shirts trees "
    "tickets pencils cakes dogs rings",
    "test": "eggs houses cups stars fish boxes",
}
SAYINGS = ("the number is {0}", "this digit is a {0}", "please press {0}", "the answer is {0}", "write down {0}")


@functools.lru_cache(maxsize=2)
def load_digit_sentences(split: str) -> tuple[list[str], np.ndarray]:
    """Return (sentences, labels int64 (N,)) of `split` ("train" or "test"), as many of each digit.

    About half of them are about numbers alone, the others about things.
    """
    generator = np.random.RandomState(sorted(SENTENCES).index(split))
    each = SENTENCES[split] // 10
    sentences: list[str] = []
    labels: list[int] = []
    for digit in range(10):
        numbers = _drawn(generator, set(_about_numbers(digit, split)), each // 2)
        sentences += numbers + _drawn(generator, set(_about_things(digit, split)), each - len(numbers))
        labels += [digit] * each
    order = generator.permutation(len(sentences))
    return [sentences[place] for place in order], np.array(labels, dtype=np.int64)[order]


def digit_sentences_table(split: str) -> Table:
    """Return the sentences of `split` as a table."""
    sentences, labels = load_digit_sentences(split)
    names = [f"digit sentence {split} {row}" for row in range(len(labels))]
    return Table(MemoryRows(sentences, names), labels, None, DIGIT_WORDS)


def _drawn(generator: np.random.RandomState, sentences: set[str], most: int) -> list[str]:
    ordered = sorted(sentences)
    return [ordered[place] for place in generator.permutation(len(ordered))[:most]]


def _about_things(digit: int, split: str) -> Iterator[str]:
    for person in PEOPLE:
        for action in ACTIONS.split():
            for thing in THINGS[split].split():
                yield f"{person} {action} {DIGIT_WORDS[digit]} {thing}."


def _about_numbers(digit: int, split: str) -> Iterator[str]:
    word = DIGIT_WORDS[digit]
    for first in range(10):
        second = digit - first if first <= digit else first - digit
        sign = "plus" if first <= digit else "minus"
        # Every third sum belongs to the test split.
        if ((first + second) % 3 == 0) == (split == "test"):
            for verb in ("is", "makes", "gives"):
                for start in ("", "we know that ", "of course "):
                    yield f"{start}{DIGIT_WORDS[first]} {sign} {DIGIT_WORDS[second]} {verb} {word}."
    if split == "train":
        yield from (f"{saying.format(word)}." for saying in SAYINGS)
        for side, other in (("after", digit - 1), ("before", digit + 1)):
            if 0 <= other <= 9:
                yield f"right {side} {DIGIT_WORDS[other]} comes {word}."
