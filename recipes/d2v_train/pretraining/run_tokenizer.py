"""The tokenizer of a run: read from its folder, loaded, or trained on its texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.data.source_list import parts_of
from d2v_train.inputs.byte_tokens import byte_tokenizer, reads_bytes
from d2v_train.inputs.tokenizer import build_tokenizer, load_tokenizer
from d2v_train.models.build import build_config, starting_config
from d2v_train.options.errors import OptionError
from d2v_train.options.run import Options
from d2v_train.runs.checkpoints import CheckpointFolder
from d2v_train.support.atomic import write_folder


logger = logging.getLogger(__name__)

MOST_CHARACTERS = 2**27
"""Characters that a new tokenizer is trained on at most."""


def prepare_tokenizer(options: Options, documents: Any, folder: Path, write: bool = True) -> Any:
    """Return the tokenizer of the run, and keep it in its folder so that a resumed run reads the same one.

    Without a checkpoint, the folder of an earlier start may be of other data: it is replaced. Call it in the main
    process first, so that a new tokenizer is trained once.

    Args:
        options: Options of the run.
        documents: Raw text dataset that a new tokenizer is trained on.
        folder: Folder of the tokenizer, beside the `checkpoints` of the run.
        write: Whether this is the main process, which writes; the others read its files.
    """
    resumed = CheckpointFolder(folder.with_name("checkpoints")).newest() is not None
    if resumed or not write:
        kept = _kept_tokenizer(folder)
        if kept is not None:
            return kept
        if resumed:
            logger.warning("There is no complete tokenizer in %s; it is made again.", folder)
    tokenizer = _new_tokenizer(options, documents)
    if write:
        with write_folder(folder) as draft:
            tokenizer.save_pretrained(draft)
    return tokenizer


def _kept_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder, or None if it is missing or incomplete."""
    files = [path for path in folder.glob("*") if path.is_file() and path.stat().st_size]
    if "tokenizer_config.json" not in [path.name for path in files]:
        return None
    try:
        tokenizer = load_tokenizer(str(folder))
    except (OSError, ValueError):
        return None
    # Bytes need no file of their vocabulary.
    return tokenizer if len(files) > 1 or reads_bytes(tokenizer) else None


def _new_tokenizer(options: Options, documents: Any) -> Any:
    """Return the tokenizer of the options or of `init_from`, or one of bytes, or else one trained on the documents.

    Raises:
        OptionError: A tokenizer is named for a front end that reads bytes, or the vocabulary size is not an int.
    """
    if options.backbone is None and build_config(options).text_config.front_end == "perceiver":
        tokenizer = byte_tokenizer() if options.text.tokenizer is None else load_tokenizer(options.text.tokenizer)
        if not reads_bytes(tokenizer):
            raise OptionError(
                f"text.tokenizer is {options.text.tokenizer}, and model.text_config.front_end=perceiver reads bytes. "
                "Set text.tokenizer=null."
            )
        return tokenizer
    if options.text.tokenizer is not None:
        return load_tokenizer(options.text.tokenizer)
    whole = options.init_from is not None and options.init_parts == "all"
    if whole and "text" in starting_config(options.init_from).modalities:
        return load_tokenizer(options.init_from)
    size = (options.model.get("text_config") or {}).get("vocab_size", 8192)
    if not isinstance(size, int):
        raise OptionError(f"model.text_config.vocab_size is {size!r}, which is not an int.")
    sources = parts_of(documents).values()
    share = -(-options.text.tokenizer_documents // len(sources))
    room = MOST_CHARACTERS // len(sources)
    return build_tokenizer((text for part in sources for text in _first_texts(part, share, room)), size)


def _first_texts(dataset: RawDataset, most: int, room: int) -> Iterator[str]:
    """Yield the first documents of a source, at most `most`, until they have `room` characters."""
    # Bad documents are found again, and reported, when the documents are packed.
    unreported = DataReport()
    documents = 0
    for index in range(len(dataset)):
        documents += dataset.joint(index) is None
        if documents > most:
            return
        if room <= 0:
            logger.info(
                "The tokenizer is trained on the first %d of %d samples of %s, which are long enough.",
                index,
                len(dataset),
                dataset.source,
            )
            return
        text = dataset.read(index, unreported)["text"]
        room -= len(text)
        yield text
