"""Which concepts a study has: classes of pictures whose name is a common word of a corpus of text.

The rule is mechanical, so that nobody chooses concepts by what comes out:

1. A class that belongs to a family ("chihuahua" to "dog") takes the word of the family.
2. Otherwise its whole name, if the corpus has enough sentences that name it ("ice cream"), or else the last word of
   the name ("suspension bridge": "bridge").
3. Names that mean something else in the corpus are left out, each with its reason.
4. Classes of the same word are one concept.
5. Of two concepts that share a word ("car", "freight car") the one with fewer sentences is left out: shared words
   align anything with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from d2v_train.alignment.sentences import WORDS


GROUPS = (
    ("animal/amphibian", 1_627_424, 1_661_091),
    ("animal/reptile", 1_661_091, 1_767_661),
    ("animal/arthropod", 1_767_661, 1_789_740),
    ("animal/bird", 1_503_061, 1_627_424),
    ("animal/bird", 1_789_740, 1_861_778),
    ("animal/mammal", 1_861_778, 1_905_661),
    ("animal/invertebrate", 1_905_661, 1_974_773),
    ("animal/arthropod", 1_974_773, 2_000_000),
    ("animal/bird", 2_000_000, 2_062_430),
    ("animal/mammal", 2_062_430, 2_152_991),
    ("animal/arthropod", 2_152_991, 2_316_707),
    ("animal/mammal", 2_316_707, 2_512_053),
    ("animal/fish", 1_439_121, 1_503_061),
    ("artifact", 2_666_196, 4_620_000),
    ("artifact", 6_200_000, 6_800_000),
    ("food", 7_555_000, 7_950_000),
    ("place", 9_186_000, 9_480_000),
    ("plant", 11_500_000, 13_200_000),
)
"""Groups of nouns by their offsets in WordNet 3.0, where animals, artifacts, food and places are contiguous."""


def wordnet_group(wordnet_id: str) -> str:
    """Return the group of a noun of WordNet 3.0, such as "animal/mammal"; "other" outside of `GROUPS`.

    Args:
        wordnet_id: Such as "n02084071".
    """
    offset = int(wordnet_id.lstrip("n"))
    return next((name for name, first, end in GROUPS if first <= offset < end), "other")


@dataclass(frozen=True)
class VocabularyRule:
    """The choice of concepts.

    Attributes:
        least_sentences: Sentences that a word needs in the corpus.
        families: Word -> names of the classes that it covers.
        left_out: Name of a class -> why it is left out.
    """

    least_sentences: int = 20
    families: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, name: str) -> list[str]:
        """Return the words that a class may be named by, the preferred one first."""
        family = [word for word, names in self.families.items() if name in names]
        return family or list(dict.fromkeys([name, WORDS.findall(name)[-1]]))


@dataclass(frozen=True)
class Concept:
    """A concept and the classes that show it.

    Attributes:
        word: What is spoken, and looked for in sentences.
        group: Such as "animal/mammal"; parts before a slash are wider groups.
        classes: Names of the classes of pictures.
        sentences: Sentences of the corpus that name it.
    """

    word: str
    group: str
    classes: tuple[str, ...]
    sentences: int


def choose_concepts(
    classes: Mapping[str, str], count: Callable[[str], int], rule: VocabularyRule
) -> tuple[list[Concept], dict[str, str]]:
    """Choose the concepts of a study.

    Args:
        classes: Name of a class -> its id in WordNet.
        count: Returns the number of sentences that name a word.
        rule: The rule.

    Returns:
        The concepts in alphabetical order, and the reason for each class that is left out.

    Raises:
        ValueError: If the rule names a class that does not exist.
    """
    known = set(classes)
    unknown = sorted({*rule.left_out, *(name for names in rule.families.values() for name in names)} - known)
    if unknown:
        raise ValueError(f"The rule names {', '.join(unknown)}, which are not classes of the pictures. Remove them.")
    members: dict[str, list[str]] = {}
    left_out = dict(rule.left_out)
    for name in classes:
        if name in left_out:
            continue
        candidates = rule.candidates(name)
        word = next((word for word in candidates if count(word) >= rule.least_sentences), None)
        if word is None:
            counts = ", ".join(f"{word}: {count(word)}" for word in candidates)
            left_out[name] = f"fewer than {rule.least_sentences} sentences ({counts})"
        else:
            members.setdefault(word, []).append(name)
    for word, other in _sharing(members, count):
        for name in members.pop(word, []):
            left_out[name] = f"its word {word!r} shares a word with {other!r}"
    concepts = [
        Concept(word, wordnet_group(classes[names[0]]), tuple(names), count(word)) for word, names in members.items()
    ]
    return sorted(concepts, key=lambda concept: concept.word), left_out


def _sharing(words: Iterable[str], count: Callable[[str], int]) -> list[tuple[str, str]]:
    """Return pairs of a word that shares a part with a more frequent one, and that one."""
    kept: dict[str, str] = {}
    dropped = []
    for word in sorted(words, key=lambda word: (-count(word), word)):
        parts = WORDS.findall(word)
        other = next((kept[part] for part in parts if part in kept), None)
        if other is None:
            kept |= dict.fromkeys(parts, word)
        else:
            dropped.append((word, other))
    return dropped
