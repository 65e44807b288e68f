"""Folders that are whole or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path


@contextmanager
def draft_of(folder: str | PathLike) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` when everything has been written.

    Args:
        folder: the place. What is there is replaced at the end, and stays as it is if anything fails before.

    Yields:
        an empty folder beside it, whose name begins with a dot.
    """
    folder = Path(folder)
    draft, old = (folder.with_name(f".{folder.name}.{word}") for word in ("draft", "old"))
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        # To delete takes longer than to rename, and an interruption would leave half of it.
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
    """Refuses a place whose replacement would delete what is converted.

    Args:
        folder: the place that `draft_of` replaces.
        sources: files and folders that are read; `None` for one that is not given.

    Raises:
        ValueError: one of them is the place, or lies in it.
    """
    place = Path(folder).resolve()
    for source in sources:
        if source is not None and Path(source).exists() and Path(source).resolve().is_relative_to(place):
            raise ValueError(
                f"{source} lies in {folder}, which would be replaced, and the source with it. Choose another folder."
            )
