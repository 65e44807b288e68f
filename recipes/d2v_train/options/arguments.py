"""Command-line arguments from a dataclass: each field is an option, documented by the string below it."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Collection
from typing import Any

from d2v_train.options.fields import field_types
from d2v_train.options.source import fields_of


def add_arguments(parser: argparse.ArgumentParser, cls: type, only: Collection[str] | None = None) -> None:
    """Add an option for each field of a dataclass; fields that are mappings are left out.

    A field without a default is required; a bool that is true by default becomes `--no_NAME`. The metadata of a field
    may contain its "choices", a "word" that stands for None, and "positional" for a positional argument.

    Args:
        parser: Parser to extend.
        cls: The dataclass.
        only: Fields to add; None adds all.
    """
    docs = {field.name: field.doc for field in fields_of(cls.__module__, cls.__name__)}
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        kind, is_list = _kind(hints[field.name])
        if kind is dict or (only is not None and field.name not in only):
            continue
        doc, word = docs[field.name], field.metadata.get("word")
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.metadata.get("positional"):
            parser.add_argument(field.name, help=doc)
        elif kind is bool and default:
            doc = f"Do not {doc[0].lower()}{doc[1:]}"
            parser.add_argument(f"--no_{field.name}", dest=field.name, action="store_false", help=doc)
        elif kind is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=doc)
        else:
            known = {} if default is dataclasses.MISSING else {"default": default}
            shown = " ".join(map(str, default)) if is_list and default else known.get("default") or word
            parser.add_argument(
                f"--{field.name}",
                type=_reader(kind, word),
                nargs="+" if is_list else None,
                choices=field.metadata.get("choices"),
                required=not known,
                help=doc if shown in (None, []) else f"{doc} Default: {shown}.",
                **known,
            )


def given(args: argparse.Namespace, names: Collection[str]) -> dict[str, Any]:
    """Return the values of the named arguments that are not None."""
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def _kind(hint: Any) -> tuple[Callable[[str], Any], bool]:
    """Return the type of the values of a field, and whether it is a list."""
    variants = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    lists = [typing.get_args(kind)[0] for kind in variants if typing.get_origin(kind) is list]
    kind = next(iter([*lists, *(kind for kind in variants if kind is not type(None))]))
    return typing.get_origin(kind) or kind, bool(lists)


def _reader(kind: Callable[[str], Any], word: str | None) -> Callable[[str], Any]:
    """Return a function that parses a value, or returns None for `word`."""

    def read(text: str) -> Any:
        try:
            return None if text == word else kind(text)
        except ValueError:
            number = {int: "a whole number", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{text!r} is neither {word!r} nor {number}.") from None

    return kind if word is None else read
