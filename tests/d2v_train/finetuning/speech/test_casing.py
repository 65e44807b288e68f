"""Upper and lower case that makes no two letters one but a capital and its own small letter."""

import unicodedata
from functools import partial

import pytest

from d2v_train.finetuning.speech.casing import change_case, check_language, has_dotted_i
from d2v_train.options.errors import OptionError


@pytest.mark.parametrize(
    ("words", "lower", "language", "expected"),
    [
        (["ılık", "ilik"], False, None, ["ıLıK", "ILIK"]),
        (["ılık", "ilik"], False, "tr", ["ILIK", "İLİK"]),
        (["ILIK", "İLİK"], True, "az-Latn", ["ılık", "ilik"]),
        (["İzmir", "izmir"], True, None, ["İzmir", "izmir"]),
        (["Maße", "Masse"], False, None, ["MAẞE", "MASSE"]),
        (["MAẞE", "MASSE"], True, "de", ["maße", "masse"]),
        (["ΰ", "Ϋ"], False, "el", ["ΰ", "Ϋ"]),
        # Forms of one letter are changed like the letter.
        (["λόγος", "ΛΌΓΟΣ"], False, None, ["ΛΌΓΟΣ", "ΛΌΓΟΣ"]),
        (["ΛΌΓΟΣ"], True, None, ["λόγος"]),
        (["ﬁsh", "ſee", "ǅ"], False, None, ["FISH", "SEE", "Ǆ"]),
    ],
)
def test_words_stay_apart(words, lower, language, expected):
    assert [change_case(word, lower, language) for word in words] == expected


@pytest.mark.parametrize("lower", [False, True])
def test_letters_become_one_with_their_own_capital_only(lower):
    """Over all letters: what has one image differs by case or by form alone."""
    groups: dict[str, set[str]] = {}
    nfkc = partial(unicodedata.normalize, "NFKC")
    for number in range(0x20000):
        letter = unicodedata.normalize("NFC", chr(number))
        if len(letter) == 1 and letter.isalpha():
            groups.setdefault(change_case(letter, lower), set()).add(letter)
    forms = [{nfkc(nfkc(letter).casefold()) for letter in group} for group in groups.values()]
    assert len(forms) > 60_000 and all(len(form) == 1 for form in forms)


def test_the_letters_of_a_vocabulary_are_used():
    german = frozenset("MASE")
    assert change_case("Maße", False, known=german) == "MASSE"
    assert change_case("Maße", False, known=german | {"ß"}) == "MAßE"
    assert change_case("ılık", False, known=frozenset("ILK")) == "ILIK"


def test_languages_are_codes():
    for code in (None, "tr", "de", "az-Latn", "pt_BR"):
        check_language(code)
    for name in ("turkish", "TR", "t", ""):
        with pytest.raises(OptionError, match="--language"):
            check_language(name)
    assert has_dotted_i("tr-TR") and not has_dotted_i("de") and not has_dotted_i(None)
