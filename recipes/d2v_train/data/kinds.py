"""Sources and decoders of each modality; `inputs/modalities.py` continues with the decoded records.

To read another modality, write its decoder and its built-in sample, and add an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from d2v_train.data.arrays import ARRAY_SUFFIXES, check_shapes, decode_array
from d2v_train.data.builtin import digit_images_table, digit_words_table, python_prose_table
from d2v_train.data.builtin_sentences import digit_sentences_table
from d2v_train.data.builtin_series import travelling_pulses_table
from d2v_train.data.decoding import decode_audio, decode_image, decode_text
from d2v_train.data.file_formats import UNREADABLE_SUFFIXES, audio_suffixes, image_suffixes
from d2v_train.data.tables import AS_FOUND, SAMPLING_RATE, TEXT_COLUMNS, SourceSettings, Table
from d2v_train.data.text_lines import has_long_word


__all__ = ["RECORD_KINDS", "RecordKind", "UNREADABLE_SUFFIXES", "readable_suffixes"]


@dataclass(frozen=True)
class RecordKind:
    """Records of one modality: where their inputs are found, and how they are decoded.

    Args:
        key: Key of the decoded input in a record; the second one of a pair is under `key` + "_pair".
        decode: `decode(value, settings) -> (decoded value, notes)`.
        find_suffixes: Returns the suffixes, in lower case, of files that are read without a table.
        columns: Usual names of the input column, best first.
        feature: Class of the column in the `datasets` library; None where it has none, as for strings and lists.
        transcripts: Suffix of files that hold the transcripts of the recordings beside them.
        builtin: Functions that return the table of a split, "train" or "test", of each built-in sample, by its source:
            "builtin", and "builtin:NAME" for others.
        check: `check(values, settings, where)` compares the first values of a source with what the model takes; None
            where it takes all.
    """

    key: str
    decode: Callable[[Any, SourceSettings], tuple[Any, list[str]]]
    find_suffixes: Callable[[], tuple[str, ...]]
    columns: tuple[str, ...]
    builtin: dict[str, Callable[[str], Table]]
    feature: str | None = None
    transcripts: str | None = None
    check: Callable[[Iterable[Any], SourceSettings, str], None] | None = None

    @property
    def is_text(self) -> bool:
        """Whether inputs are strings, of which a file holds many."""
        return self.key == "text"

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of files that are read without a table, in lower case, as the installed libraries tell.

        Raises:
            MissingDependencyError: If the library of the modality is not installed.
        """
        return self.find_suffixes()


def _image(value: Any, settings: SourceSettings = AS_FOUND) -> tuple[Any, list[str]]:
    notes: list[str] = []
    limits = {"value_range": settings.value_range, "max_pixels": settings.max_pixels}
    return decode_image(value, settings.channels, notes, **limits), notes


def _recording(value: Any, settings: SourceSettings = AS_FOUND) -> tuple[Any, list[str]]:
    samples, notes = decode_audio(value, SAMPLING_RATE, settings.sampling_rate)
    samples.flags.writeable = False
    return samples, notes


def _text(value: Any, settings: SourceSettings = AS_FOUND) -> tuple[Any, list[str]]:
    texts = tuple(map(decode_text, value if isinstance(value, tuple) else (value,)))
    notes = ["long word"] if any(map(has_long_word, texts)) else []
    return texts if isinstance(value, tuple) else texts[0], notes


def _array(value: Any, settings: SourceSettings = AS_FOUND) -> tuple[Any, list[str]]:
    return decode_array(value, settings), []


RECORD_KINDS: dict[str, RecordKind] = {
    "text": RecordKind(
        "text",
        _text,
        lambda: (".txt", ".text", ".jsonl", ".ndjson"),
        TEXT_COLUMNS,
        {"builtin": python_prose_table, "builtin:digits": digit_sentences_table},
    ),
    "vision": RecordKind(
        "image",
        _image,
        image_suffixes,
        ("image", "img", "picture", "photo", "jpg", "png"),
        {"builtin": digit_images_table},
        feature="Image",
    ),
    "audio": RecordKind(
        "audio",
        _recording,
        audio_suffixes,
        ("audio", "speech", "wav", "flac", "sound"),
        {"builtin": digit_words_table},
        feature="Audio",
        transcripts=".trans.txt",
    ),
    "arrays": RecordKind(
        "array",
        _array,
        lambda: ARRAY_SUFFIXES,
        ("array", "arrays", "values", "series", "signal", "signals", "data", "x"),
        {"builtin": travelling_pulses_table},
        check=check_shapes,
    ),
}


def readable_suffixes(modality: str) -> tuple[str, ...]:
    """Return the suffixes of files of a modality that are read, in lower case; `UNREADABLE_SUFFIXES` has others."""
    return RECORD_KINDS[modality].suffixes
