"""Sources and decoders of each modality; `inputs/modalities.py` continues with the decoded records.

To read another modality, write its decoder and its built-in sample, and add an entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from d2v_train.data.builtin import digit_images_table, digit_words_table, python_prose_table
from d2v_train.data.decoding import decode_audio, decode_image, decode_text
from d2v_train.data.tables import SAMPLING_RATE, TEXT_COLUMNS, Table
from d2v_train.data.text_lines import has_long_word


@dataclass(frozen=True)
class RecordKind:
    """Records of one modality: where their inputs are found, and how they are decoded.

    Args:
        key: Key of the decoded input in a record; the second one of a pair is under `key` + "_pair".
        decode: `decode(value, channels) -> (decoded value, notes)`; `channels` applies to images.
        suffixes: Suffixes, in lower case, of files that are read without a table.
        columns: Usual names of the input column, best first.
        feature: Class of the column in the `datasets` library; None for strings, of which a file holds many.
        transcripts: Suffix of files that hold the transcripts of the recordings beside them.
        builtin: Returns the table of a split, "train" or "test", of the built-in sample.
    """

    key: str
    decode: Callable[[Any, int | None], tuple[Any, list[str]]]
    suffixes: tuple[str, ...]
    columns: tuple[str, ...]
    builtin: Callable[[str], Table]
    feature: str | None = None
    transcripts: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether inputs are strings."""
        return self.feature is None


def _image(value: Any, channels: int | None) -> tuple[Any, list[str]]:
    notes: list[str] = []
    return decode_image(value, channels, notes), notes


def _recording(value: Any, channels: int | None) -> tuple[Any, list[str]]:
    samples, notes = decode_audio(value, SAMPLING_RATE)
    samples.flags.writeable = False
    return samples, notes


def _text(value: Any, channels: int | None) -> tuple[Any, list[str]]:
    texts = tuple(map(decode_text, value if isinstance(value, tuple) else (value,)))
    notes = ["long word"] if any(map(has_long_word, texts)) else []
    return texts if isinstance(value, tuple) else texts[0], notes


RECORD_KINDS: dict[str, RecordKind] = {
    "text": RecordKind("text", _text, (".txt", ".text", ".jsonl", ".ndjson"), TEXT_COLUMNS, python_prose_table),
    "vision": RecordKind(
        "image",
        _image,
        (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        ("image", "img", "picture", "photo", "jpg", "png"),
        digit_images_table,
        feature="Image",
    ),
    "audio": RecordKind(
        "audio",
        _recording,
        (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"),
        ("audio", "speech", "wav", "flac", "sound"),
        digit_words_table,
        feature="Audio",
        transcripts=".trans.txt",
    ),
}
