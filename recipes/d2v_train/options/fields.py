"""Fields of the options: whether they may change on resume, their types and dotted names."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from typing import Any


FREE = "free_on_resume"


def free(default: Any = dataclasses.MISSING, *, default_factory: Callable[[], Any] | Any = dataclasses.MISSING) -> Any:
    """Return a field that may differ between a run and its continuation.

    Such fields concern locations, speed and reports. Every other field changes what the run computes, and a run is
    not resumed with another value of it.

    Args:
        default: Default of the field.
        default_factory: Returns the default, if it is a list, a dictionary or a section.
    """
    return dataclasses.field(default=default, default_factory=default_factory, metadata={FREE: True})


def section_class(hint: Any) -> type | None:
    """Return the section in a type hint, such as `Section | None`, or None for a value."""
    kinds = (hint, *typing.get_args(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def field_types(section: type) -> dict[str, Any]:
    """Return the types of a section's fields by name."""
    hints = typing.get_type_hints(section)
    return {field.name: hints[field.name] for field in dataclasses.fields(section)}


def is_free(section: type, name: str) -> bool:
    """Return whether an option, or a section that contains it, may differ when a run is resumed.

    Args:
        section: Class that the name starts from.
        name: Dotted name of the option. Names inside a dictionary are covered by its field.
    """
    first, _, rest = name.partition(".")
    field = next((field for field in dataclasses.fields(section) if field.name == first), None)
    if field is None:
        return False
    inner = section_class(field_types(section)[first])
    return bool(field.metadata.get(FREE)) or bool(rest and inner and is_free(inner, rest))


def dotted_names(section: type, prefix: str = "") -> Iterator[str]:
    """Yield the names of all options in a section and in those below it, in order of definition."""
    for name, hint in field_types(section).items():
        inner = section_class(hint)
        if inner is None:
            yield prefix + name
        else:
            yield from dotted_names(inner, f"{prefix}{name}.")
