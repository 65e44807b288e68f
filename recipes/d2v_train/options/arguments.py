"""Arguments of a program from a dataclass: each field is an option, described by the lines below it."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

from d2v_train.options.documentation import fields_of
from d2v_train.options.fields import field_types


def add_arguments(
    parser: argparse.ArgumentParser,
    cls: type,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    positional: Collection[str] = (),
) -> None:
    """Add an option for each field of a dataclass.

    A field without a default is required; a switch that is on has the option `--no_NAME`. The metadata of a field may
    name its "choices", and with "shown" a word that stands for None.

    Args:
        parser: That gets the options.
        cls: The dataclass.
        only: Fields to take; None takes all.
        without: Fields to leave out.
        positional: Fields that are arguments by their place.
    """
    docs = {field.name: field.doc for field in fields_of(cls.__module__, cls.__name__)}
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        if field.name in without or (only is not None and field.name not in only):
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in positional:
            parser.add_argument(field.name, help=docs[field.name])
        elif hints[field.name] is bool:
            name, action = (f"no_{field.name}", "store_false") if default else (field.name, "store_true")
            doc = f"Do not {docs[field.name][0].lower()}{docs[field.name][1:]}" if default else docs[field.name]
            parser.add_argument(f"--{name}", dest=field.name, action=action, help=doc)
        else:
            kind, is_list = _kind(hints[field.name])
            shown = field.metadata.get("shown", default)
            is_required = default is dataclasses.MISSING
            has_default = not is_required and shown not in (None, [])
            listed = " ".join(map(str, shown)) if isinstance(shown, list) else shown
            parser.add_argument(
                f"--{field.name}",
                type=_parser(kind, field.metadata.get("shown")),
                nargs="+" if is_list else None,
                choices=field.metadata.get("choices"),
                required=is_required,
                default=None if is_required else default,
                help=docs[field.name].replace("%", "%%") + (f" Default: {listed}." if has_default else ""),
            )


def arguments_of(args: argparse.Namespace, cls: type, only: Collection[str] | None = None) -> dict[str, Any]:
    """Return the values of the fields of a dataclass; those that are None are left out.

    Args:
        args: What a parser with `add_arguments` returned.
        cls: The dataclass.
        only: Fields to take; None takes all.
    """
    found = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(cls)}
    return {name: value for name, value in found.items() if value is not None and (only is None or name in only)}


def _kind(hint: Any) -> tuple[Callable[[str], Any], bool]:
    """Return the type of the values of a field, and whether it takes several."""
    variants = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    several = next((kind for kind in variants if typing.get_origin(kind) is list), None)
    if several is not None:
        return typing.get_args(several)[0], True
    return next(kind for kind in variants if kind is not type(None)), False


def _parser(kind: Callable[[str], Any], word: str | None) -> Callable[[str], Any]:
    """Return what reads a value: of a type, or None where the text is a word that stands for it."""

    def parse(text: str) -> Any:
        try:
            return None if text == word else kind(text)
        except ValueError:
            number = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{text!r} is neither {word!r} nor {number}.") from None

    return kind if word is None else parse
