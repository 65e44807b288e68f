"""Built-in data: images of digits, spoken digits, and prose about Python, so that a first run needs no download.

- vision: scikit-learn's handwritten digits, 1797 grey images of 8 x 8, split 1437 / 360 stratified by class.
- audio: the words zero to nine from 40 synthetic voices (1200 clips, train) and 10 other voices (300 clips, test);
  see `recipes/d2v_train/data/builtin_files/README.md`.
- text: paragraphs of the language reference and of the docstrings that every Python installation contains. The label
  is the area of the library a paragraph is about (`TEXT_AREAS`); train and test share no module and no topic. The
  text differs a little from one Python version to the next; for a given one it is always the same.
"""

from __future__ import annotations

import ast
import csv
import functools
import importlib.util
import re
from pathlib import Path

import numpy as np

from d2v_train.data.rows import MemoryRows
from d2v_train.data.tables import SAMPLING_RATE, Table
from d2v_train.support.extras import need


DIGIT_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DATA_FOLDER = Path(__file__).resolve().parent / "builtin_files"
TEST_SHARE_OF_DIGITS = 0.2
PLAIN_WORD = re.compile(r"(?<!\S)[(\"']?[A-Za-z][A-Za-z'-]+[.,:;)\"']*(?!\S)")
MIN_WORDS = 8
"""Paragraphs with fewer plain words are left out: they are code, or too short to be classified."""

# Modules that CPython 3.10 to 3.13 all have and that Linux distributions do not split off into packages of their own
# (as they do with tkinter, idlelib, distutils, test).
TEXT_AREAS: dict[str, dict[str, str]] = {
    "internet": {
        "train": "email urllib smtplib ftplib xmlrpc wsgiref socketserver ssl socket mailbox base64 webbrowser",
        "test": "http imaplib poplib ipaddress mimetypes uuid",
    },
    "concurrency": {
        "train": "asyncio multiprocessing subprocess selectors sched signal _threading_local",
        "test": "threading concurrent queue",
    },
    "numbers": {
        "train": "_pydecimal fractions numbers datetime _strptime heapq bisect operator colorsys",
        "test": "statistics random calendar",
    },
    "files": {
        "train": "os pathlib tarfile tempfile fileinput lzma bz2 _pyio shelve pickle wave filecmp glob configparser "
        "plistlib dbm stat genericpath posixpath ntpath sqlite3",
        "test": "zipfile shutil gzip csv linecache",
    },
    "strings": {
        "train": "difflib xml codecs encodings argparse gettext locale textwrap string html pprint reprlib "
        "stringprep quopri",
        "test": "json optparse getopt re cmd shlex",
    },
    "code": {
        "train": "importlib inspect typing ast pydoc pickletools tokenize pkgutil pyclbr symtable codeop code "
        "compileall py_compile runpy dataclasses functools contextlib enum weakref unittest doctest logging",
        "test": "pdb bdb dis traceback trace timeit profile pstats cProfile warnings zipimport",
    },
}
LANGUAGE_AREA = "language"
TEST_TOPICS = {"string-methods", "import", "strings", "numeric-types", "naming", "sequence-types", "calls", "class"}


@functools.lru_cache(maxsize=1)
def load_digit_images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return split -> (images uint8 (N, 8, 8), labels int64 (N,)).

    The split is made class by class from a fixed permutation, so that it does not depend on the version of
    scikit-learn's own splitting code.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    order = np.random.RandomState(0).permutation(len(labels))
    # Within its class, every fifth image of the permutation is a test image: 360 in all.
    rank = np.empty(len(labels), dtype=np.int64)
    for label in range(10):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members))
    is_test = rank % round(1 / TEST_SHARE_OF_DIGITS) == 0
    return {split: (pictures[keep], labels[keep]) for split, keep in (("train", ~is_test), ("test", is_test))}


def digit_images_table(split: str) -> Table:
    """Return the images of `split` as a table."""
    pictures, labels = load_digit_images()[split]
    names = [f"digit picture {split} {row}" for row in range(len(labels))]
    return Table(MemoryRows(pictures, names), labels, None, [str(digit) for digit in range(10)])


@functools.lru_cache(maxsize=2)
def load_digit_words(split: str) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Return (clips, labels, voices) of `split` ("train" or "test"); clips are float32 at 16 kHz.

    The voices of the two splits differ in the vocal tract they model; accents are shared.
    """
    samples, _ = need("soundfile", "audio").read(DATA_FOLDER / f"digit_words_{split}.flac", dtype="float32")
    samples.flags.writeable = False
    with open(DATA_FOLDER / "digit_words.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    starts = [int(row["start"]) for row in rows]
    clips = [samples[start : start + int(row["length"])] for start, row in zip(starts, rows, strict=True)]
    return clips, np.array([int(row["label"]) for row in rows], dtype=np.int64), [row["voice"] for row in rows]


def digit_words_table(split: str) -> Table:
    """Return the clips of `split` as a table, grouped by voice."""
    clips, labels, voices = load_digit_words(split)
    values = [{"array": clip, "sampling_rate": SAMPLING_RATE} for clip in clips]
    names = [f"digit word {split} {row}" for row in range(len(labels))]
    return Table(MemoryRows(values, names), labels, voices, DIGIT_WORDS)


@functools.lru_cache(maxsize=1)
def load_python_prose() -> dict[str, tuple[list[str], np.ndarray, list[str]]]:
    """Return split -> (paragraphs, labels int64 (N,), documents); a document is a module or a topic.

    Labels index `text_label_names()`. A paragraph that occurs twice is kept once, in the test split if it is there.

    Raises:
        RuntimeError: If this Python installation lacks the sources of its library.
    """
    names = text_label_names()
    seen: set[str] = set()
    splits = {}
    for split in ("test", "train"):
        paragraphs, labels, documents = [], [], []
        for label, area in enumerate(names):
            for document, text in _documents(area, split):
                for paragraph in _paragraphs(text):
                    if paragraph not in seen:
                        seen.add(paragraph)
                        paragraphs.append(paragraph)
                        labels.append(label)
                        documents.append(document)
        splits[split] = (paragraphs, np.array(labels, dtype=np.int64), documents)
    counts = np.bincount(splits["train"][1], minlength=len(names))
    if (counts < 50).any():
        found = dict(zip(names, counts.tolist(), strict=True))
        raise RuntimeError(
            f"The built-in text is taken from the sources of Python's standard library, and this installation has "
            f"too few of them (paragraphs by area: {found}). Set `data.text` to a folder of text files instead."
        )
    return splits


def python_prose_table(split: str) -> Table:
    """Return the paragraphs of `split` as a table, grouped by document."""
    paragraphs, labels, documents = load_python_prose()[split]
    names = [f"{document}, paragraph {row}" for row, document in enumerate(documents)]
    return Table(MemoryRows(paragraphs, names), labels, documents, text_label_names())


def text_label_names() -> list[str]:
    """Return the names of the classes of the built-in text, in the order of their labels."""
    return [LANGUAGE_AREA, *TEXT_AREAS]


def _documents(area: str, split: str) -> list[tuple[str, str]]:
    """Return (name, text) of every document of one area and split."""
    if area == LANGUAGE_AREA:
        from pydoc_data.topics import topics

        chosen = sorted(name for name in topics if (name in TEST_TOPICS) == (split == "test"))
        return [(f"topic {name}", topics[name]) for name in chosen]
    found = []
    for module in TEXT_AREAS[area][split].split():
        found.extend((module, text) for path in _source_files(module) for text in _docstrings(path))
    return found


def _source_files(module: str) -> list[Path]:
    """Return the source files of a module or package of the standard library, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin.endswith(".py") else []
    folder = Path(spec.origin).parent
    return [path for path in sorted(folder.rglob("*.py")) if "test" not in path.relative_to(folder).as_posix()]


def _docstrings(path: Path) -> list[str]:
    """Return the docstrings of a source file, in the order of the file."""
    try:
        waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    except (OSError, SyntaxError, ValueError):
        return []
    found = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((getattr(node, "lineno", 0), ast.get_docstring(node)))
        # Definitions lie among statements; expressions, most of the tree, need no visit.
        for block in ("body", "orelse", "handlers", "finalbody"):
            waiting.extend(child for child in getattr(node, block, ()) if not isinstance(child, ast.Expr))
    return [text for _, text in sorted(found, key=lambda entry: entry[0]) if text]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs with at least `MIN_WORDS` words, white space collapsed, without code and tables."""
    blocks = (block for block in re.split(r"\n\s*\n", text) if ">>>" not in block)
    paragraphs = (" ".join(block.split()) for block in blocks)
    return [paragraph for paragraph in paragraphs if len(PLAIN_WORD.findall(paragraph)) >= MIN_WORDS]
