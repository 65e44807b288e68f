"""Constants and fields of classes, read from the source of a module without importing it.

Help and lists of names are available in a fraction of a second, without PyTorch and transformers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


class Option(NamedTuple):
    """A field of a class of options in the source.

    Attributes:
        name: Dotted name.
        type: Annotation of the field.
        default: Value, or its source as `Expression` if only running the module would tell it; `SET_BY_RUN` without
            one.
        doc: Documentation of the field, in one line.
        is_free: Whether it may differ when a run is resumed.
        listed: Whether it is a key of a mapping, documented by another class than a section.
        choices: Valid values, if the source lists them.
        bare: Whether its name without a value means true, for other types than bool.
    """

    name: str
    type: str
    default: Any
    doc: str
    is_free: bool = False
    listed: bool = False
    choices: tuple[Any, ...] = ()
    bare: bool = False


class Expression(str):
    """Source of a default that is not known without running it."""


SET_BY_RUN = Expression("set by the run")
ELSEWHERE = ("transformers.training_args",)
"""Modules of other packages that hold bases of classes of options."""
FIELD_CALLS = {"field": (), "free": ("default",), "option": ("default", "help")}
"""Functions that make fields -> names of their positional arguments."""


def constant(module: str, name: str) -> Any:
    """Return a constant of a module from its source: a value, or the names of the entries of a dictionary.

    Args:
        module: Whole name of the module.
        name: Name of the constant, which the module may import from another one of its package.

    Raises:
        LookupError: If the module does not define the name.
        ValueError: If only running the module would tell the value.
    """
    for node in _module(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target, value in _assignments(node):
                if target == name and isinstance(value, ast.Dict):
                    return tuple(_evaluated(key, module) for key in value.keys)
                if target == name:
                    return _evaluated(value, module)
        elif origin := _imported_from(node, module, name):
            return constant(origin, name)
    raise LookupError(f"{module} does not define {name}.")


def find_class(module: str, name: str) -> tuple[str, str] | None:
    """Return module and name of the definition of a class that a module knows; None outside of its package."""
    for node in _module(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, name
        if origin := _imported_from(node, module, name):
            return find_class(origin, name)
    return None


def definition(module: str, name: str) -> ast.ClassDef:
    """Return the definition of a class in a module."""
    return next(node for node in _module(module).body if getattr(node, "name", None) == name)


def class_constant(module: str, name: str, attribute: str) -> Any:
    """Return a value that the body of a class, or of one of its bases, assigns; None if none does."""
    node = definition(module, name)
    for entry in node.body:
        for target, value in _assignments(entry) if isinstance(entry, ast.Assign | ast.AnnAssign) else ():
            if target == attribute:
                return _evaluated(value, module)
    origins = (_class_of(base, module) for base in node.bases)
    found = (class_constant(*origin, attribute) for origin in origins if origin)
    return next((value for value in found if value is not None), None)


def first_line(node: ast.ClassDef) -> str:
    """Return the first paragraph of the docstring of a class, in one line."""
    return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")


def fields_of(module: str, name: str) -> list[Option]:
    """Return the fields of a class, those of its bases first.

    Fields are annotated, with a plain default or one made by a function in `FIELD_CALLS`. Their documentation is the
    string below them, their help, an entry in the docstring of the class, or that of the field they replace.
    """
    node = definition(module, name)
    described = _described(ast.get_docstring(node) or "")
    found: dict[str, Option] = {}
    # As in Python's method resolution, bases further left override others.
    for base in reversed(node.bases):
        origin = _class_of(base, module)
        found |= {field.name: field for field in (fields_of(*origin) if origin else [])}
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "with_defaults":
            for keyword in decorator.keywords:
                found[keyword.arg] = found[keyword.arg]._replace(default=_value(keyword.value, module))
    local: dict[str, Any] = {}
    for place, entry in enumerate(node.body):
        local |= dict(_locals(entry, module))
        if not isinstance(entry, ast.AnnAssign) or entry.target.id.startswith("_"):
            continue
        field, annotation = entry.target.id, ast.unparse(entry.annotation)
        if annotation.startswith("ClassVar"):
            continue
        following = node.body[place + 1] if place + 1 < len(node.body) else None
        below = following.value if isinstance(following, ast.Expr) else None
        text = below.value if isinstance(below, ast.Constant) and isinstance(below.value, str) else ""
        given = _given(entry.value, module)
        inherited = found[field].doc if field in found else ""
        doc = " ".join((text or given.get("help", "")).split()) or described.get(field, "") or inherited
        choices = tuple(given.get("choices", ())) or _enum_values(entry.annotation, module)
        found[field] = Option(
            field,
            annotation,
            _value(entry.value, module, local),
            doc,
            is_free=_is_free(entry.value),
            choices=choices,
            bare=given.get("const") is True,
        )
    return list(found.values())


# -- definitions


@cache
def _module(name: str) -> ast.Module:
    """Return the parsed source of a module, without importing it.

    Raises:
        LookupError: If it is a package.
    """
    package, *rest = name.split(".")
    if package == __name__.partition(".")[0]:
        folder = Path(__file__).resolve().parents[1]
    else:
        folder = Path(find_spec(package).submodule_search_locations[0])
    file = folder.joinpath(*rest).with_suffix(".py")
    if not file.is_file():
        raise LookupError(f"{name} is not a file of its own.")
    return ast.parse(file.read_text(encoding="utf-8"))


def _imported_from(node: ast.stmt, module: str, name: str) -> str | None:
    """Return the module of the same package from which a statement imports a name; None if it does not."""
    if not isinstance(node, ast.ImportFrom) or name not in [alias.asname or alias.name for alias in node.names]:
        return None
    source = f"{module.rpartition('.')[0]}.{node.module}" if node.level else node.module
    return source if source.partition(".")[0] == module.partition(".")[0] or source in ELSEWHERE else None


def _class_of(base: ast.expr, module: str) -> tuple[str, str] | None:
    return find_class(module, base.id) if isinstance(base, ast.Name) else None


def _assignments(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, ast.expr]]:
    """Yield each name that a statement assigns, with the expression of its value."""
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        yield from ((name.id, value) for name, value in zip(target.elts, node.value.elts, strict=True))
    elif isinstance(target, ast.Name) and node.value is not None:
        yield target.id, node.value


def _locals(node: ast.stmt, module: str) -> Iterator[tuple[str, Any]]:
    """Yield the constants that a statement of a class assigns; of conditions all hold."""
    if isinstance(node, ast.If):
        for inner in node.body:
            yield from _locals(inner, module)
    elif isinstance(node, ast.Assign):
        for name, value in _assignments(node):
            yield name, _value(value, module)


def _evaluated(node: ast.expr, module: str, local: Mapping[str, Any] | None = None) -> Any:
    """Return the value of an expression of literals and constants.

    Raises:
        ValueError: If it contains anything else.
    """
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    try:
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        known = {name: local[name] if local and name in local else constant(module, name) for name in names}
        return eval(compile(ast.Expression(node), module, "eval"), {"__builtins__": {}}, known)
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)} in {module} is not a constant.") from error


def _enum_values(annotation: ast.expr, module: str) -> tuple[Any, ...]:
    """Return the values of an enumeration in an annotation such as `Kind | str`; () without one."""
    parts = [annotation]
    while isinstance(parts[0], ast.BinOp):
        parts[:1] = [parts[0].left, parts[0].right]
    for part in parts:
        origin = _class_of(part, module) if getattr(part, "id", "a")[0].isupper() else None
        node = definition(*origin) if origin else None
        if node is not None and any("Enum" in ast.unparse(base) for base in node.bases):
            return tuple(_evaluated(entry.value, origin[0]) for entry in node.body if isinstance(entry, ast.Assign))
    return ()


def _field_call(value: ast.expr | None) -> dict[str, ast.expr] | None:
    """Return the arguments by name of a call of `FIELD_CALLS`; None for any other expression."""
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in FIELD_CALLS):
        return None
    positional = dict(zip(FIELD_CALLS[value.func.id], value.args, strict=False))
    return positional | {keyword.arg: keyword.value for keyword in value.keywords}


def _given(value: ast.expr | None, module: str) -> dict[str, Any]:
    """Return the help and the choices in the call that makes a field."""
    given = _field_call(value) or {}
    entries = {name: given[name] for name in ("help",) if name in given}
    metadata = given.get("metadata")
    if isinstance(metadata, ast.Dict):
        entries |= {key.value: entry for key, entry in zip(metadata.keys, metadata.values, strict=True)}
    found = {}
    for name, entry in entries.items():
        try:
            found[name] = _evaluated(entry, module)
        except ValueError:
            continue
    return found


def _is_free(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "free"


def _value(node: ast.expr | None, module: str, local: Mapping[str, Any] | None = None) -> Any:
    """Return the default of a field from its expression."""
    if node is None:
        return SET_BY_RUN
    given = _field_call(node)
    if given is not None:
        if "default" in given:
            return _value(given["default"], module, local)
        made = given.get("default_factory")
        if made is None:
            return SET_BY_RUN
        if isinstance(made, ast.Lambda):
            return _value(made.body, module, local)
        return {"list": [], "dict": {}}.get(made.id, SET_BY_RUN)
    try:
        return _evaluated(node, module, local)
    except ValueError:
        return Expression(ast.unparse(node))


def _described(docstring: str) -> dict[str, str]:
    """Return the text of the entries of `Args:` and `Attributes:` in a docstring by name.

    An entry may have several names, and document further ones inside its text, as "`name`: text".
    """
    found: dict[str, str] = {}
    for part in re.split(r"\n(?=\S)", docstring):
        heading, _, body = part.partition("\n")
        if not heading.startswith(("Args", "Attributes")):
            continue
        for entry in re.split(r"\n(?= {4}\S)", f"\n{body}"):
            names, _, text = " ".join(entry.split()).partition(": ")
            inside = re.split(r"(?<=\. )(`\w+`(?:, `\w+`)*): ", text)
            found |= dict.fromkeys(re.split(r", ", names), _sentence(inside[0]))
            for others, nested in zip(inside[1::2], inside[2::2], strict=True):
                found |= dict.fromkeys(re.findall(r"\w+", others), _sentence(nested))
    return found


def _sentence(text: str) -> str:
    # The default stands beside it, and that of a subclass may be another one.
    text = re.sub(r" Default [^\s:]+(, [^\s:]+)*\.(?=\s|$)", "", text).strip()
    return text[:1].upper() + text[1:]
