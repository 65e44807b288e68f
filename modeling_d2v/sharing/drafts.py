"""Folders that are written completely or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def draft_of(folder: str | PathLike) -> Iterator[Path]:
    """Yield a new folder to write into, which replaces `folder` when everything has been written.

    Args:
        folder: The destination. Its content is replaced at the end, and not changed if anything fails before.

    Yields:
        An empty folder beside it, whose name begins with a dot.
    """
    folder = Path(folder)
    draft, old = (folder.with_name(f".{folder.name}.{word}") for word in ("draft", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        # Deleting takes longer than renaming, and an interruption would leave half of it.
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        try:
            draft.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_place(folder: str | PathLike, *sources: str | PathLike | None) -> None:
    """Refuse a destination whose replacement would delete a source.

    Args:
        folder: The destination that `draft_of` replaces.
        sources: Files and folders that are read; `None` for one that is not given.

    Raises:
        ValueError: A source is the destination or lies in it.
    """
    place = Path(folder).resolve()
    for source in sources:
        if source is not None and Path(source).exists() and Path(source).resolve().is_relative_to(place):
            raise ValueError(
                f"{source} lies in {folder}, which would be replaced, and the source with it. Choose another folder."
            )
