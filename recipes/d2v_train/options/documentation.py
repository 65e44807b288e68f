"""Type, default and documentation of each option, read from the source.

The source is parsed, not imported: the options of a run, including the fields of the model's configuration, are
available in a fraction of a second, without PyTorch.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple


OPTIONS = "d2v_train.options.run:Options"

LISTED_ELSEWHERE = {
    "model": "modeling_d2v.configuration_data2vec:Data2VecConfig",
    "model.text_config": "modeling_d2v.configuration_modalities:Data2VecTextConfig",
    "model.vision_config": "modeling_d2v.configuration_modalities:Data2VecVisionConfig",
    "model.audio_config": "modeling_d2v.configuration_audio:Data2VecAudioConfig",
    "model.arrays_config": "modeling_d2v.configuration_arrays:Data2VecArrayConfig",
    "text.transform": "d2v_train.inputs.text:TextTransform",
    "vision.transform": "d2v_train.inputs.vision:VisionTransform",
    "audio.transform": "d2v_train.inputs.audio:AudioTransform",
    "arrays.transform": "d2v_train.inputs.arrays:ArrayTransform",
    **{f"{name}.dataset": "d2v_train.data.tables:SourceSettings" for name in ("text", "vision", "audio", "arrays")},
}
"""Options that are mappings, with the class whose fields are their keys."""

BACKBONE = "modeling_d2v.backbone_configuration:BackbonePreTrainingConfig"
"""Class whose fields are the keys of the `model` section of a run with `backbone`."""

NOT_OPTIONS = {"tokenizer", "train"}
"""Fields of these classes that are set by the program."""

PRESET = (
    "Published size whose settings the other fields start from, such as `vision-base`, `audio-large` or "
    "`text-base-v1`; null starts from the defaults listed here."
)


class Option(NamedTuple):
    """An option in the source.

    Attributes:
        name: Dotted name.
        type: Annotation of the field.
        default: Value, or its source as `Expression` if it is not a literal; `SET_BY_RUN` without one.
        doc: Docstring of the field, in one line.
        is_free: Whether it may differ when a run is resumed.
        listed: Whether it is a key of a mapping, documented by another class than a section.
    """

    name: str
    type: str
    default: Any
    doc: str
    is_free: bool = False
    listed: bool = False


class Expression(str):
    """Source of a default that is not a literal."""


SET_BY_RUN = Expression("set by the run")


class OptionSection(NamedTuple):
    """A section of the options.

    Attributes:
        name: Dotted name, "" for the top level.
        doc: First line of its class.
        shared: First line of the base class that it shares with other sections; "" without one.
        options: Options in it and in the sections below it.
    """

    name: str
    doc: str
    shared: str
    options: list[Option]


@cache
def sections() -> list[OptionSection]:
    """Return the top level and the sections below it, in order of definition."""
    module, _, name = OPTIONS.partition(":")
    whole, found = [], []
    for field in fields_of(module, name):
        inner = _section_class(module, field.type)
        if inner is None:
            whole.append(field)
            if field.type.startswith("dict"):  # the model, a section to users
                found.append(OptionSection(field.name, field.doc, "", _listed(field)))
        else:
            options = list(_below(*inner, f"{field.name}.", field.is_free))
            node = _definition(*inner)
            shared = "".join(_first_line(_definition(*_find(inner[0], base.id))) for base in node.bases)
            found.append(OptionSection(field.name, _first_line(node), shared, options))
    return [OptionSection("", _first_line(_definition(module, name)), "", whole), *found]


def options() -> list[Option]:
    """Return every option of a run, once."""
    return [option for section in sections() for option in section.options]


def backbone_options() -> list[Option]:
    """Return the options of the `model` section of a run with `backbone`."""
    return [field._replace(name=f"model.{field.name}", listed=True) for field in fields_of(*BACKBONE.split(":"))]


def _below(module: str, section: str, prefix: str, is_free: bool = False) -> Iterator[Option]:
    """Yield the options of a section and of those below it."""
    for field in fields_of(module, section):
        option = field._replace(name=prefix + field.name, is_free=is_free or field.is_free)
        inner = _section_class(module, field.type)
        if inner is None:
            yield option
            yield from _listed(option)
        else:
            yield from _below(*inner, f"{option.name}.", option.is_free)


def _listed(mapping: Option) -> list[Option]:
    """Return the keys of a mapping that another class documents, with those of the mappings inside it."""
    if mapping.name not in LISTED_ELSEWHERE:
        return []
    fields = fields_of(*LISTED_ELSEWHERE[mapping.name].split(":"))
    found = [Option("model.preset", "str | None", None, PRESET, listed=True)] if mapping.name == "model" else []
    for field in fields:
        if field.name not in NOT_OPTIONS:
            key = field._replace(name=f"{mapping.name}.{field.name}", is_free=mapping.is_free, listed=True)
            if key.name == "model.modalities":
                key = key._replace(default=SET_BY_RUN)
            found += [key, *_listed(key)]
    return found


def constant(module: str, name: str) -> Any:
    """Return a constant of a module from its source: a literal, or the names of the entries of a dictionary.

    Args:
        module: Whole name of the module.
        name: Name of the constant.
    """
    for node in _module(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            if isinstance(node.value, ast.Dict):
                return tuple(ast.literal_eval(key) for key in node.value.keys)
            return ast.literal_eval(node.value)
    raise LookupError(f"{module} does not define {name}.")


# -- definitions


@cache
def _module(name: str) -> ast.Module:
    """Return the parsed source of a module, without importing it."""
    package, *rest = name.split(".")
    if package == __name__.partition(".")[0]:
        folder = Path(__file__).resolve().parents[1]
    else:
        folder = Path(find_spec(package).submodule_search_locations[0])
    return ast.parse(folder.joinpath(*rest).with_suffix(".py").read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[str, str] | None:
    """Return module and name of the definition of a name in a module; None outside of its package."""
    for node in _module(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, name
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            source = f"{module.rpartition('.')[0]}.{node.module}" if node.level else node.module
            package = module.partition(".")[0]
            return _find(source, name) if source.partition(".")[0] == package else None
    return None


def _definition(module: str, name: str) -> ast.ClassDef:
    return next(node for node in _module(module).body if getattr(node, "name", None) == name)


def _section_class(module: str, annotation: str) -> tuple[str, str] | None:
    """Return module and name of the section that an annotation names, or None for a value."""
    for name in re.findall(r"\w+Options", annotation):
        return _find(module, name)
    return None


def _first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")


def fields_of(module: str, name: str) -> list[Option]:
    """Return the fields of a class, those of its bases first."""
    node = _definition(module, name)
    described = _described(ast.get_docstring(node) or "")
    found: dict[str, Option] = {}
    # As in Python's method resolution, bases further left override others.
    for base in reversed(node.bases):
        origin = _find(module, base.id) if isinstance(base, ast.Name) else None
        found |= {field.name: field for field in (fields_of(*origin) if origin else [])}
    for place, entry in enumerate(node.body):
        if not isinstance(entry, ast.AnnAssign) or entry.target.id.startswith("_"):
            continue
        field, annotation = entry.target.id, ast.unparse(entry.annotation)
        if annotation.startswith("ClassVar"):
            continue
        following = node.body[place + 1] if place + 1 < len(node.body) else None
        below = following.value if isinstance(following, ast.Expr) else None
        text = below.value if isinstance(below, ast.Constant) and isinstance(below.value, str) else ""
        inherited = found[field].doc if field in found else ""
        doc = " ".join(text.split()) or described.get(field, "") or inherited
        found[field] = Option(field, annotation, _value(entry.value), doc, is_free=_is_free(entry.value))
    return list(found.values())


def _is_free(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "free"


def _value(node: ast.expr | None) -> Any:
    """Return the default of a field from its expression."""
    if node is None:
        return SET_BY_RUN
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("free", "field"):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if node.args or "default" in given:
            return _value(node.args[0] if node.args else given["default"])
        made = given.get("default_factory")
        if made is None:
            return SET_BY_RUN
        if isinstance(made, ast.Lambda):
            return _value(made.body)
        return {"list": [], "dict": {}}.get(made.id, SET_BY_RUN)
    try:
        return ast.literal_eval(node)
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
