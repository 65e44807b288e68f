"""What a field of the options says about itself, and the dotted names of all of them."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any


FREE = "free_on_resume"


def free(default: Any = dataclasses.MISSING, *, default_factory: Callable[[], Any] | Any = dataclasses.MISSING) -> Any:
    """Return a field that may differ between a run and its continuation.

    That is for where things go, how fast they are, and how often they are reported. Every other field changes what the
    run computes, and a run does not go on with another value of it.

    Args:
        default: value of the field.
        default_factory: makes the value, where it is a list, a dictionary or a section.
    """
    return dataclasses.field(default=default, default_factory=default_factory, metadata={FREE: True})


def section_class(hint: Any) -> type | None:
    """Return the section that a type hint names, also as `Section | None`, or None for a value."""
    kinds = (hint, *typing.get_args(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def field_types(section: type) -> dict[str, Any]:
    """Return the types of a section's fields by name."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def is_free(section: type, name: str) -> bool:
    """Return whether an option may differ when a run is resumed: it says so, or a field that it lies in does.

    Args:
        section: class that the name starts from.
        name: of the option, with dots. Names inside a field that is a dictionary are covered by that field.
    """
    first, _, rest = name.partition(".")
    field = next((field for field in dataclasses.fields(section) if field.name == first), None)
    if field is None:
        return False
    inner = section_class(field_types(section)[first])
    return bool(field.metadata.get(FREE)) or bool(rest and inner and is_free(inner, rest))


def dotted_names(section: type, prefix: str = "") -> Iterator[str]:
    """Yield the names of all options in a section and in those below it, in the order of their definition."""
    for name, hint in field_types(section).items():
        inner = section_class(hint)
        if inner is None:
            yield prefix + name
        else:
            yield from dotted_names(inner, f"{prefix}{name}.")
