"""A table of concepts with examples in each modality, read from a folder.

    concepts/pictures/dog/*.jpg      a folder per concept, of any image files
    concepts/recordings/dog/*.flac   a folder per concept, of any recordings
    concepts/sentences/dog.txt       a sentence per line that names the concept
    concepts/concepts.json           {"concepts": [{"name", "word", "group", ...}], "left_out": {name: reason}}

Two modalities are enough. The table is optional; names are then those of the folders. Words without sentences are put
in sentences that a corpus or templates give.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from d2v_train.alignment.sentences import SentenceFinder


FOLDERS = {"vision": "pictures", "audio": "recordings", "text": "sentences"}
EXAMPLE_SUFFIXES = {
    "vision": {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
    "audio": {".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a"},
}
TABLE = "concepts.json"
TEMPLATES = ("This is the word {}.", "I saw a {} there.", "They spoke of the {} again.", "It was a {} after all.")
"""Sentences for words that no corpus names; `{}` is the word. They hold no context, so they test the word alone."""


class ConceptError(ValueError):
    """The folder of concepts cannot be used; the message says what to change."""


@dataclass
class ConceptExamples:
    """A concept and its examples.

    Attributes:
        name: Unique name, that of its folders.
        word: What is spoken and written; the name by default.
        group: Semantic group, such as "animal/mammal"; "" if unknown.
        corpus_sentences: Sentences of a corpus that name it, if known.
        examples: Modality -> paths of files, or sentences.
    """

    name: str
    word: str
    group: str = ""
    corpus_sentences: int | None = None
    examples: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class ConceptTable:
    """Concepts of a study.

    Attributes:
        folder: Where they were read from.
        concepts: In alphabetical order.
        left_out: Name -> why it is not used.
        made: How sentences were made that no file holds: "corpus", "templates", or "".
    """

    folder: Path
    concepts: list[ConceptExamples]
    left_out: dict[str, str] = field(default_factory=dict)
    made: str = ""

    @property
    def modalities(self) -> list[str]:
        """Modalities that some concept has, in fixed order."""
        return [name for name in FOLDERS if any(concept.examples.get(name) for concept in self.concepts)]

    def with_modality(self, modality: str) -> list[ConceptExamples]:
        """Return the concepts that have examples of a modality."""
        return [concept for concept in self.concepts if concept.examples.get(modality)]

    def account(self) -> str:
        """Return what is used, in one line per modality."""
        lines = []
        for modality in self.modalities:
            counts = [len(concept.examples[modality]) for concept in self.with_modality(modality)]
            made = f", from {self.made}" if modality == "text" and self.made else ""
            lines.append(f"{modality}: {len(counts)} concepts, {min(counts)} to {max(counts)} examples each{made}")
        reasons = Counter(self.left_out.values())
        lines += [f"left out, {reason}: {count}" for reason, count in reasons.most_common(5)]
        return "\n".join(lines)


def load_concepts(
    folder: Path,
    *,
    exemplars: int = 20,
    least: int = 2,
    corpus: Iterable[tuple[str, str]] | None = None,
    templates: Sequence[str] = (),
) -> ConceptTable:
    """Read the concepts of a folder.

    Args:
        folder: The folder.
        exemplars: Most examples of a concept in a modality; the first ones by name are taken.
        least: Examples below which a concept lacks a modality.
        corpus: Pairs of a text and its source, searched for concepts without sentences.
        templates: Sentences with `{}` for concepts that still have none.

    Raises:
        ConceptError: If there are no concepts, the table is wrong, or fewer than two modalities have four concepts.
    """
    if not folder.is_dir():
        raise ConceptError(f"{folder} is not a folder. Give one with {', '.join(FOLDERS.values())} in it.")
    rows, left_out = _table(folder)
    for modality in FOLDERS:
        for name in _names(folder, modality):
            rows.setdefault(name, ConceptExamples(name, name.replace("_", " ")))
    if not rows:
        raise ConceptError(
            f"{folder} holds no concepts. Give a folder per concept in {folder / 'pictures'} or "
            f"{folder / 'recordings'}, or a file per concept in {folder / 'sentences'}."
        )
    concepts = [rows[name] for name in sorted(rows)]
    for concept in concepts:
        for modality in FOLDERS:
            found = _examples(folder, modality, concept.name)[:exemplars]
            if len(found) >= least:
                concept.examples[modality] = found
    made = _add_sentences(concepts, exemplars, least, corpus, templates)
    for concept in concepts:
        if len(concept.examples) < 2:
            has = ", ".join(concept.examples) or "no modality"
            left_out[concept.name] = (
                f"has at least {least} examples in {has} only" if concept.examples else "no examples"
            )
    table = ConceptTable(folder, [concept for concept in concepts if len(concept.examples) > 1], left_out, made)
    counts = {modality: len(table.with_modality(modality)) for modality in FOLDERS}
    if sum(count >= 4 for count in counts.values()) < 2:
        found = ", ".join(f"{count} in {modality}" for modality, count in counts.items())
        raise ConceptError(f"{folder} has concepts in several modalities: {found}. A study needs two with at least 4.")
    return table


def _table(folder: Path) -> tuple[dict[str, ConceptExamples], dict[str, str]]:
    """Return the rows of the table by name, and what it leaves out."""
    path = folder / TABLE
    if not path.exists():
        return {}, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries, left_out = content["concepts"], content.get("left_out", {})
        known = {field.name for field in dataclasses.fields(ConceptExamples)} - {"examples"}
        rows = [{key: value for key, value in entry.items() if key in known} for entry in entries]
        concepts = [ConceptExamples(**{"word": row["name"], **row}) for row in rows]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConceptError(
            f'{path} is not a table of concepts ({error!r}). It holds {{"concepts": [{{"name": "dog", "word": "dog", '
            '"group": "animal"}]}.'
        ) from error
    twice = [name for name, count in Counter(concept.name for concept in concepts).items() if count > 1]
    if twice:
        raise ConceptError(f"{path} names {', '.join(twice)} more than once. Names are unique.")
    return {concept.name: concept for concept in concepts}, dict(left_out)


def _names(folder: Path, modality: str) -> list[str]:
    place = folder / FOLDERS[modality]
    if not place.is_dir():
        return []
    if modality == "text":
        return [path.stem for path in place.glob("*.txt")]
    return [path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _examples(folder: Path, modality: str, name: str) -> list[Any]:
    place = folder / FOLDERS[modality]
    if modality == "text":
        path = place / f"{name}.txt"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.strip() for line in lines if line.strip()]
    return sorted(path for path in (place / name).rglob("*") if path.suffix.lower() in EXAMPLE_SUFFIXES[modality])


def _add_sentences(
    concepts: Sequence[ConceptExamples],
    exemplars: int,
    least: int,
    corpus: Iterable[tuple[str, str]] | None,
    templates: Sequence[str],
) -> str:
    """Give sentences to the concepts that have none; return what they were made from."""
    made = []
    lacking = [concept for concept in concepts if "text" not in concept.examples]
    if lacking and corpus is not None:
        finder = SentenceFinder([concept.word for concept in concepts])
        found = finder.search(corpus, limit=4 * exemplars, alone=True)
        for concept in lacking:
            sentences = [sentence for sentence, _ in found[concept.word].ordered()][:exemplars]
            if len(sentences) >= least:
                concept.examples["text"] = sentences
                concept.corpus_sentences = found[concept.word].count
                made.append("corpus")
    for concept in lacking:
        if "text" not in concept.examples and len(templates) >= least:
            concept.examples["text"] = [template.format(concept.word) for template in templates][:exemplars]
            made.append("templates")
    return " and ".join(dict.fromkeys(made))
