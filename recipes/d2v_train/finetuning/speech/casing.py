"""Upper and lower case of transcripts, in which only a capital and its own small letter become one.

`str.upper` makes the dotless ı and the dotted i one letter, and writes ß as SS.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from d2v_train.options.errors import OptionError


CASES = {"keep": None, "lower": True, "upper": False}
"""Whether an option's case is the lower one; `None` keeps the case."""
DOTTED_I = ("tr", "az", "crh", "gag")
"""Codes of the languages whose small letter of I is ı, and whose capital of i is İ."""
DOTTED_LETTERS = "ıİ"
_PAIRS = {("ß", False): "ẞ", ("ẞ", True): "ß"}
_TURKIC = {True: str.maketrans({"I": "ı", "İ": "i"}), False: str.maketrans({"i": "İ", "ı": "I"})}
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]+)*")


def check_language(language: str | None) -> None:
    """Check that a language is a code.

    Raises:
        OptionError: If it is anything else, such as the name of a language.
    """
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise OptionError(f"--language is {language!r}. It must be a code of two or three letters, such as tr or de.")


def has_dotted_i(language: str | None) -> bool:
    """Return whether i and ı are two letters with capitals of their own in a language, by its code."""
    return language is not None and re.split("[-_]", language)[0] in DOTTED_I


def change_case(text: str, lower: bool, language: str | None = None, known: frozenset[str] | None = None) -> str:
    """Return a text in upper or lower case, of which the original could be told up to the case of its letters.

    A letter whose case cannot be changed back, such as ı without a language, stays as it is; ß becomes ẞ. Forms of the
    same letter (final ς, ligatures, ſ) are changed like the letter.

    Args:
        text: Composed characters (NFC).
        lower: Lower case instead of upper case.
        language: Code of the language.
        known: Characters of a vocabulary; a letter for which the rule above gives none of them is written with them
            if its own form, or that of `str.upper` or `str.lower`, allows it.
    """
    if has_dotted_i(language):
        text = text.translate(_TURKIC[lower])
    # As in most texts: one call, which also finds final sigmas.
    irregular = {letter for letter in set(text) if not letter.isascii() and not _is_regular(letter, lower)}
    if not irregular:
        return text.lower() if lower else text.upper()
    parts = re.split(f"([{''.join(map(re.escape, sorted(irregular)))}])", text)
    return "".join(
        _irregular(part, lower, known) if part in irregular else part.lower() if lower else part.upper()
        for part in parts
    )


def _irregular(letter: str, lower: bool, known: frozenset[str] | None) -> str:
    own = _PAIRS.get((letter, lower), letter)
    ways = (own, letter, letter.lower() if lower else letter.upper(), letter.upper() if lower else letter.lower())
    return next((way for way in ways if known is not None and set(way) <= known), own)


@lru_cache(maxsize=4096)
def _is_regular(letter: str, lower: bool) -> bool:
    """Return whether a change of case can be undone, or makes one of several forms of the same letter."""
    changed = letter.lower() if lower else letter.upper()
    if changed == letter or letter == "ς" or unicodedata.category(letter) == "Lt":
        return True
    back = unicodedata.normalize("NFC", changed.upper() if lower else changed.lower())
    if back == letter:
        # Not the two characters of i with a dot above for İ.
        return len(unicodedata.normalize("NFC", changed)) == 1
    return back == unicodedata.normalize("NFKC", letter)
