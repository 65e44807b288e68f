"""Layouts of corpora: the files that say which recordings or pictures are samples, and what belongs to each of them.

A layout recognises such a file by its name and content, and returns the samples that it lists. `FILE_LAYOUTS` holds
them in the order in which they are tried; to read another one, write its function and add an entry.
"""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from d2v_train.data.folder_splits import split_family
from d2v_train.data.inventory import first_names
from d2v_train.data.listing import FolderListing, Listing, decoded_text
from d2v_train.data.metadata_files import METADATA_NAMES, names_files, read_metadata, split_cells
from d2v_train.data.tables import NoSamplesError, SourceSettings, is_missing
from d2v_train.support.text import lines_of


class Sample(NamedTuple):
    """A sample that a file lists.

    Attributes:
        file: Name of its file in the listing, or a path elsewhere.
        columns: What belongs to it, by the name of the column.
        split: Its split; None for that of its path.
    """

    file: str
    columns: Mapping[str, Any]
    split: str | None = None


@dataclass
class Description:
    """Samples that a file lists.

    Attributes:
        samples: The samples, in their order.
        covers: Folder, with a slash at the end, or "" for the source: files in it that are not listed are no samples.
        beside: Further files that were read.
        by_folder: Whether the class of a sample is the folder of its file.
        is_untyped: Whether numbers are written as text.
        notes: Facts about the file that a user should know.
    """

    samples: list[Sample]
    covers: str
    beside: list[str] = field(default_factory=list)
    by_folder: bool = False
    is_untyped: bool = True
    notes: list[str] = field(default_factory=list)


class Corpus:
    """Files of a source, as the layouts see them.

    Args:
        listing: The files.
        suffixes: Suffixes of the files that hold samples.
        settings: What to read.
    """

    def __init__(self, listing: Listing, suffixes: tuple[str, ...], settings: SourceSettings):
        self.listing, self.suffixes, self.settings = listing, suffixes, settings

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file.

        Raises:
            ValueError: If it is in another encoding than the settings say.
        """
        return lines_of(decoded_text(self.listing.read(name), self.settings.encoding, self.shown(name)))

    def shown(self, name: str) -> str:
        """Return the name of a file for messages."""
        where = self.listing.where
        return where if where.rpartition("/")[2] == name else os.path.join(where, name)

    def exists(self, name: str) -> bool:
        """Return whether a file of the source, or outside of it, exists."""
        if name in self.listing.known:
            return True
        return isinstance(self.listing, FolderListing) and os.path.isfile(self.listing.value(name))

    def find(self, folder: str, written: str) -> str:
        """Return the name of the file that is written in a file of `folder`, whether it exists or not.

        The path is taken as it is written, relative to the folder; if there is no such file, without the white space
        around it, with slashes instead of backslashes, with its accents composed in another way, and in upper and
        lower case, unless several files have that name then.
        """
        name = self._place(folder, written)
        if self.exists(name):
            return name
        for other in (written.strip(), written.strip().replace("\\", "/")):
            place = self._place(folder, other)
            if self.exists(place):
                return place
        folded = self._place(folder, other)
        alike = self._folded.get(_folded(folded), ())
        exact = [name for name in alike if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", folded)]
        return next((found[0] for found in (exact, alike) if len(found) == 1), folded)

    def first(self, *names: str) -> str:
        """Return the first of several files that exists, with its suffix in any case, or else the first."""
        found = next((name for name in names if self.exists(name)), None)
        return found or next((self._upper[name] for name in names if name in self._upper), names[0])

    @cached_property
    def _upper(self) -> dict[str, str]:
        """Files with capitals in their suffix, by their names with the suffix in lower case."""
        parts = ((name, *posixpath.splitext(name)) for name in self.listing.names)
        return {stem + suffix.lower(): name for name, stem, suffix in parts if suffix != suffix.lower()}

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self.listing.names:
            names.setdefault(_folded(name), []).append(name)
        return names

    def _place(self, folder: str, written: str) -> str:
        if written.startswith("/"):
            return self.listing.relative(posixpath.normpath(written))
        return posixpath.normpath(folder + written)


@dataclass(frozen=True)
class FileLayout:
    """A layout.

    Args:
        title: What a source of this layout is called.
        claims: Whether a file of this name, without folders, may describe samples.
        read: `read(corpus, name)` returns the description, or None if the file is something else.
        modalities: What it describes.
    """

    title: str
    claims: Callable[[str], bool]
    read: Callable[[Corpus, str], Description | None]
    modalities: tuple[str, ...] = ("audio", "vision", "arrays")

    @property
    def is_metadata(self) -> bool:
        """Whether it is a table with a column of files, of which several may describe the same files."""
        return self.read is read_metadata_file


def read_librispeech(corpus: Corpus, name: str) -> Description:
    """Read the transcripts of a chapter: each line holds the name of a recording beside the file, and its text."""
    folder = _folder(name)
    # The folder above speaker and chapter names the split, such as train-clean-100.
    above = folder.split("/")[:-3]
    split = above[-1] if above else "train"
    samples = []
    for line in corpus.lines(name):
        key, _, text = line.strip().partition(" ")
        if key:
            beside = (f"{folder}{key}{suffix}" for suffix in (".flac", *corpus.suffixes))
            columns = {"text": text.strip(), "speaker": key.partition("-")[0]}
            samples.append(Sample(corpus.first(*beside), columns, split))
    return Description(samples, "")


def read_kaldi(corpus: Corpus, name: str) -> Description:
    """Read `wav.scp`, with `text` and `utt2spk` beside it: name of an utterance, and path, words or speaker.

    Raises:
        ValueError: If recordings are the output of commands, or are cut by a file `segments`.
    """
    folder = _folder(name)
    paths = _pairs(corpus, name)
    if f"{folder}segments" in corpus.listing.known:
        raise ValueError(
            f"{corpus.shown(folder + 'segments')} cuts the recordings of wav.scp into pieces. Cut them beforehand, "
            "for example with `extract-segments scp:wav.scp segments ...`, and name the pieces in wav.scp."
        )
    piped = next((key for key, path in paths.items() if path.endswith("|")), None)
    if piped is not None:
        raise ValueError(
            f"The recording {piped} of {corpus.shown(name)} is the output of a command, and commands are not run. "
            "Write the recordings to files, for example with `wav-copy scp:wav.scp ...`, and name these."
        )
    beside = [file for file in (f"{folder}text", f"{folder}utt2spk") if file in corpus.listing.known]
    texts = _pairs(corpus, f"{folder}text") if f"{folder}text" in beside else {}
    speakers = _pairs(corpus, f"{folder}utt2spk") if f"{folder}utt2spk" in beside else {}
    last = folder.rstrip("/").rpartition("/")[2]
    split = last if split_family(last) else None
    columns = {"text": texts} if texts else {}
    columns |= {"speaker": speakers} if speakers else {}
    samples = [
        Sample(corpus.find(folder, path), {column: cells.get(key) for column, cells in columns.items()}, split)
        for key, path in paths.items()
    ]
    return Description(samples, "", beside)


def read_ljspeech(corpus: Corpus, name: str) -> Description | None:
    """Read `metadata.csv` without a header: name of a recording, its text, and the text with numbers as words."""
    folder = _folder(name)
    lines = [line for line in corpus.lines(name) if line.strip()]
    if not lines or "|" not in lines[0] or names_files(lines[0].split("|")):
        return None
    samples, any_exists = [], False
    for line in lines:
        key, *texts = line.split("|")
        places = (f"{folder}wavs/{key}", f"{folder}{key}")
        names = [f"{place}{suffix}" for place in places for suffix in (".wav", "", *corpus.suffixes)]
        file = corpus.first(*names)
        any_exists = any_exists or (bool(texts) and corpus.exists(file))
        raw, spoken = (*texts, "", "")[:2]
        spoken = (spoken if spoken.strip() else raw).strip()
        columns = {"text": spoken, "normalized_text": spoken, "raw_text": raw.strip()}
        samples.append(Sample(file, columns))
    return Description(samples, folder) if any_exists else None


def read_common_voice(corpus: Corpus, name: str) -> Description | None:
    """Read a table of Common Voice: `train.tsv` lists files of the folder `clips` beside it, which are a split."""
    folder = _folder(name)
    head, *rows = [line.split("\t") for line in corpus.lines(name) if line.strip()] or [[]]
    if "path" not in head or not {"sentence", "client_id"} & {*head}:
        return None
    split, samples = PurePosixPath(name).stem, []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise ValueError(f"Line {number} of {corpus.shown(name)} has {len(row)} cells, its header {len(head)}.")
        columns = {key: cell.strip() for key, cell in zip(head, row, strict=True)}
        path = columns.pop("path")
        places = [f"{below}{path}{suffix}" for below in (f"{folder}clips/", folder) for suffix in ("", ".mp3")]
        samples.append(Sample(corpus.first(*places), columns, split))
    return Description(samples, folder)


def read_manifest(corpus: Corpus, name: str) -> Description | None:
    """Read a manifest of wav2vec: the folder of the recordings, then a path and the number of samples in each line.

    The words (`.wrd`) or letters (`.ltr`) beside it are the transcripts, line for line.

    Raises:
        ValueError: If a transcript has another number of lines.
    """
    folder, stem = _folder(name), name.removesuffix(".tsv")
    root, *lines = corpus.lines(name) or [""]
    cells = [line.rsplit("\t", 1) for line in lines if line.strip()]
    if not root.strip() or "\t" in root or not cells or not all(len(row) == 2 and row[1].isdecimal() for row in cells):
        return None
    paths = [corpus.find(folder, f"{root.strip().rstrip('/')}/{path}") for path, _ in cells]
    if not corpus.exists(paths[0]):  # moved together with its recordings
        moved = [corpus.find(folder, path) for path, _ in cells]
        paths = moved if corpus.exists(moved[0]) else paths
    columns: dict[str, list[Any]] = {"frames": [int(frames) for _, frames in cells]}
    beside = [f"{stem}.{kind}" for kind in ("phn", "ltr", "wrd") if f"{stem}.{kind}" in corpus.listing.known]
    for file in beside:
        texts = [line.strip() for line in corpus.lines(file)]
        if len(texts) != len(paths):
            raise ValueError(f"{corpus.shown(file)} has {len(texts)} lines for the {len(paths)} recordings of {name}.")
        if file.endswith(".phn"):
            columns["phones"] = texts
        else:
            letters = file.endswith(".ltr")
            columns["text"] = [_words(text) for text in texts] if letters else texts
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    split = PurePosixPath(name).stem
    return Description([Sample(path, row, split) for path, row in zip(paths, rows, strict=True)], "", beside)


def read_metadata_file(corpus: Corpus, name: str) -> Description | None:
    """Read `metadata.csv` and its other formats: the column `file_name`, relative to the file, and further columns.

    If a value of the column `split` begins like a split, all its values are splits; else the column means nothing.

    Raises:
        ValueError: If the file is malformed, has no column of files, or no rows.
    """
    folder = _folder(name)
    rows = read_metadata(corpus.listing.read(name), corpus.shown(name), corpus.settings)
    suffix = name.rpartition(".")[2].lower()
    if rows is None:
        if suffix in ("csv", "tsv", "jsonl") and name.rpartition("/")[2].lower() in METADATA_NAMES:
            raise ValueError(
                f"{corpus.shown(name)} has no column `file_name`. Name the column of the files so, or rename the file "
                "if it describes something else."
            )
        return None
    if not rows:
        raise ValueError(f"{corpus.shown(name)} lists no files. Write a row for each file, or remove it.")
    values = {str(columns.get("split", "")).lower() for _, columns in rows if not is_missing(columns.get("split"))}
    notes = []
    if not any(map(split_family, values)):
        if values:
            shown = first_names(sorted(values))
            notes = [f"the column `split` of {name} does not name splits ({shown}), and means nothing"]
        values = set()
    samples = []
    for written, columns in rows:
        split = str(columns.get("split", "")).lower()
        samples.append(Sample(corpus.find(folder, written), columns, split if split in values else None))
    return Description(samples, folder, is_untyped=suffix in ("csv", "tsv"), notes=notes)


def read_list(corpus: Corpus, name: str) -> Description:
    """Read a list of files, one path in each line, relative to the list.

    Raises:
        NoSamplesError: If none of them exists, as in a text that is no list.
    """
    folder = _folder(name)
    files = [corpus.find(folder, line) for line in corpus.lines(name) if line.strip()]
    if not any(map(corpus.exists, files)):
        raise NoSamplesError(
            f"None of the {len(files)} files that {corpus.shown(name)} lists exists"
            + (f", such as {files[0]}" if files else "")
            + ". Write one path in each line, relative to the list."
        )
    return Description([Sample(file, {}) for file in files], folder, by_folder=True)


FILE_LAYOUTS: tuple[FileLayout, ...] = (
    FileLayout("LibriSpeech", lambda name: name.endswith(".trans.txt"), read_librispeech, ("audio",)),
    FileLayout("Kaldi", lambda name: name == "wav.scp", read_kaldi, ("audio",)),
    FileLayout("LJSpeech", lambda name: name == "metadata.csv", read_ljspeech, ("audio",)),
    FileLayout("Common Voice", lambda name: name.endswith(".tsv"), read_common_voice, ("audio",)),
    FileLayout("a manifest of wav2vec", lambda name: name.endswith(".tsv"), read_manifest, ("audio",)),
    FileLayout("metadata", lambda name: name.lower() in METADATA_NAMES, read_metadata_file),
)
LIST_LAYOUTS: tuple[FileLayout, ...] = (
    *(layout for layout in FILE_LAYOUTS if not layout.is_metadata),
    FileLayout(
        "metadata", lambda name: name.lower().endswith((".csv", ".tsv", ".json", ".jsonl")), read_metadata_file
    ),
    FileLayout("a list of files", lambda name: name.lower().endswith((".txt", ".lst")), read_list),
)
"""Layouts of a single file that is given as the source."""


def describe(
    corpus: Corpus, name: str, modality: str, layouts: tuple[FileLayout, ...] = FILE_LAYOUTS
) -> tuple[FileLayout | None, Description | None]:
    """Return the layout of a file that describes samples, and its description; (None, None) for any other file."""
    short = name.rpartition("/")[2]
    for layout in layouts:
        if modality in layout.modalities and layout.claims(short):
            description = layout.read(corpus, name)
            if description is not None:
                return layout, description
    return None, None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _folder(name: str) -> str:
    return name[: name.rfind("/") + 1]


def _pairs(corpus: Corpus, name: str) -> dict[str, str]:
    """Return the first word of each line, and what follows it."""
    lines = (split_cells(line) for line in corpus.lines(name) if line.strip())
    return {key: value for key, value in lines}


def _words(letters: str) -> str:
    """Return the words of a line of letters, which are separated by spaces, with | after each word."""
    return letters.replace(" ", "").replace("|", " ").strip()
