"""Texts of any length for tokenizers, whose memory is more than a hundred times that of the text.

A text is cut before a white space that a word follows. Tokenizers that split text into words first, as byte-level BPE
does, give the same tokens for the pieces as for the whole.
"""

from __future__ import annotations

from collections.abc import Iterator


PIECE_CHARACTERS = 2**18
"""Longest text that is tokenized at once."""
_TRIES = 100


def cut_text(text: str, most: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Yield a text in pieces of at most `most` characters, of which the second half is searched for a place to cut.

    Without such a place, as in a word of a million letters, a piece ends inside a word.

    >>> list(cut_text("one two three", 8))
    ['one two', ' three']
    """
    start = 0
    while len(text) - start > most:
        end = _last_gap(text, start + most // 2, start + most)
        yield text[start:end]
        start = end
    yield text[start:]


def head_of_text(text: str, characters: int) -> str:
    """Return the beginning of a text, at most so many characters long, cut as `cut_text` does."""
    return next(cut_text(text, characters))


def _last_gap(text: str, first: int, last: int) -> int:
    """Return the last place after `first` and up to `last` with a white space that a word follows, or `last`."""
    for space in (" ", "\n", "\t"):
        place = last + 1
        for _ in range(_TRIES):
            place = text.rfind(space, first + 1, place)
            if place < 0:
                break
            if place + 1 < len(text) and not text[place + 1].isspace():
                return place
    return last
