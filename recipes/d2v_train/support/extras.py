"""Imports of optional libraries, with an error that names the extra to install."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


class MissingDependencyError(ImportError):
    """Error for a library of an extra in setup.py that is not installed; the message names the extra."""


@functools.cache
def need(module: str, extra: str) -> ModuleType:
    """Import an optional library where it is used; later calls cost a dictionary lookup.

    Call it outside of `try` blocks that count bad samples: a missing library is not the fault of a sample.

    Args:
        module: Name to import, such as "soundfile" or "PIL.Image".
        extra: The extra in setup.py that installs it, such as "audio" or "vision".

    Raises:
        MissingDependencyError: The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = {"PIL": "pillow"}.get(module.split(".")[0], module)
        raise MissingDependencyError(
            f"{library} cannot be imported ({error}), and this program needs it. Install it with the extra {extra!r}: "
            f'pip install "modeling-d2v[{extra}]".'
        ) from error
