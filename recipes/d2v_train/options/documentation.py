"""Type, default and documentation of each option, read from the source.

The source is parsed, not imported: the options of a run, including the fields of the model's configuration, are
available in a fraction of a second, without PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from d2v_train.options.source import SET_BY_RUN, Option, definition, fields_of, find_class, first_line


OPTIONS = "d2v_train.options.run:Options"

LISTED_ELSEWHERE = {
    "model": "modeling_d2v.configuration_data2vec:Data2VecConfig",
    "model.text_config": "modeling_d2v.configuration_modalities:Data2VecTextConfig",
    "model.vision_config": "modeling_d2v.configuration_vision:Data2VecVisionConfig",
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
            node = definition(*inner)
            shared = "".join(first_line(definition(*find_class(inner[0], base.id))) for base in node.bases)
            found.append(OptionSection(field.name, first_line(node), shared, options))
    return [OptionSection("", first_line(definition(module, name)), "", whole), *found]


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


def _section_class(module: str, annotation: str) -> tuple[str, str] | None:
    """Return module and name of the section that an annotation names, or None for a value."""
    for name in re.findall(r"\w+Options", annotation):
        return find_class(module, name)
    return None
