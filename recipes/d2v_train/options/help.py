"""The options of a pretraining run as text for a terminal, and as the page `docs/options.md`.

python -m d2v_train.options.help --markdown > docs/options.md
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from d2v_train.options.documentation import OptionSection, options, sections
from d2v_train.options.names import nearest_name
from d2v_train.options.source import Expression, Option


INTRODUCTION = (
    "An option is set in the YAML file of the run, or on the command line as optim.lr=1e-3 or --optim.lr 1e-3. The "
    'value after the equals sign below is the default. Options marked "free on resume" may differ when a run is '
    "resumed; all others must stay the same. `--help NAME` shows one section or one option, such as `--help optim` or "
    "`--help model.vision_config`."
)
MARKDOWN_INTRODUCTION = """\
# Options of pretraining

Every option of `d2v pretrain`, generated from the source by `python -m d2v_train.options.help --markdown`: change
the source, not this page. `d2v pretrain --help` shows the same, and `--help optim` one section of it.

An option is set in the YAML file of the run, or on the command line as `optim.lr=1e-3` or `--optim.lr 1e-3`. Options
marked with ↻ may differ when a run is resumed; all others must stay the same."""

TOP_LEVEL = "run"
"""Name of the section of the top-level options."""


def help_text(wanted: Sequence[str] = (), width: int | None = None) -> str:
    """Return the help on options as text.

    Args:
        wanted: Names of sections or options to show in full; without any, every option is shown, those of the model,
            of transforms and of data sources by name and default alone.
        width: Columns of the text; default: those of the terminal, between 60 and 119.

    Raises:
        LookupError: If there is no such section or option.
    """
    width = width or min(max(shutil.get_terminal_size((100, 24)).columns, 60), 119)
    if not wanted:
        parts = [textwrap.fill(INTRODUCTION, width), *(_group_text(*group, width) for group in groups())]
        return "\n\n\n".join(parts)
    return "\n\n".join(_part_text(name.strip(".-"), width) for name in wanted)


def groups() -> list[tuple[str, str, list[Option]]]:
    """Return heading, description and options of each part of the help.

    Sections with a common base class, those of the modalities, form one part.
    """
    found: dict[str, list[OptionSection]] = {}
    for section in sections():
        found.setdefault(section.shared or section.name, []).append(section)
    return [
        (
            ", ".join(section.name or TOP_LEVEL for section in together),
            together[0].shared or together[0].doc,
            [option for section in together for option in section.options],
        )
        for together in found.values()
    ]


def merged(separate: Iterable[Option]) -> list[tuple[str, Option]]:
    """Return options with their names; those of several modalities that differ in name only form one entry."""
    found: dict[tuple[Any, ...], list[Option]] = {}
    for option in separate:
        last = option.name.rpartition(".")[2]
        found.setdefault((last, option.type, str(option.default), option.doc, option.is_free), []).append(option)
    return [(", ".join(option.name for option in same), same[0]) for same in found.values()]


# -- text


def _group_text(heading: str, doc: str, members: list[Option], width: int) -> str:
    fields = [option for option in members if not option.listed]
    shown = [_option_text(names, option, width) for names, option in merged(fields)]
    listed: dict[str, list[Option]] = {}
    for option in members:
        if option.listed:
            listed.setdefault(option.name.rpartition(".")[0], []).append(option)
    same: dict[str, list[str]] = {}
    for mapping, keys in listed.items():
        text = ", ".join(f"{key.name.rpartition('.')[2]}={_value(key.default)}" for key in keys)
        same.setdefault(text, []).append(mapping)
    for text, mappings in same.items():
        title = textwrap.fill(f"{', '.join(mappings)} (--help {mappings[0]} describes each):", width,
                              initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)  # fmt: skip
        shown.append(f"{title}\n{textwrap.fill(text, width, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}")
    return "\n\n".join([_heading(heading, doc, width), *shown])


def _part_text(name: str, width: int) -> str:
    """Return one section, or one option with those below it."""
    section = next((section for section in sections() if name == (section.name or TOP_LEVEL)), None)
    if section is not None:
        title, chosen = [_heading(name, section.doc, width)], section.options
    else:
        title, chosen = [], [each for each in options() if each.name == name or each.name.startswith(f"{name}.")]
    if not chosen:
        nearest = nearest_name(name, {option.name: option.doc for option in options()})
        raise LookupError(f"There is no option or section {name!r}. The nearest option is {nearest!r}.")
    return "\n\n".join([*title, *(_option_text(names, option, width) for names, option in merged(chosen))])


def _heading(name: str, doc: str, width: int) -> str:
    return textwrap.fill(f"{name}: {doc}", width)


def _option_text(names: str, option: Option, width: int) -> str:
    notes = _kind(option.type) + (", free on resume" if option.is_free else "")
    line = textwrap.fill(f"{names} = {_value(option.default)}  ({notes})", width, initial_indent="  ",
                         subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)  # fmt: skip
    doc = textwrap.fill(option.doc, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
    return f"{line}\n{doc}"


def _kind(annotation: str) -> str:
    """Return a human-readable type."""
    if "Config" in annotation or re.match(r"dict\b", annotation):
        return "section" if "Config" in annotation else "mapping"
    plain = annotation.replace("float | int", "float").replace("dict[str, Any]", "mapping")
    return plain.replace("None", "null").replace("Sequence", "list").replace(" | ", " or ")


def _value(value: Any) -> str:
    """Return a default as YAML."""
    if isinstance(value, Expression):
        return str(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else '""'


# -- Markdown


def markdown() -> str:
    """Return the page `docs/options.md`."""
    parts = [MARKDOWN_INTRODUCTION]
    for heading, doc, members in groups():
        parts += [f"## {heading}", doc, _table(members)]
    return "\n\n".join(parts) + "\n"


def _table(members: list[Option]) -> str:
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for names, option in merged(members):
        shown = ", ".join(f"`{name}`" for name in names.split(", ")) + (" ↻" if option.is_free else "")
        lines.append(f"| {shown} | `{_value(option.default)}` | {option.doc} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown() if "--markdown" in sys.argv else help_text(sys.argv[1:]), end="")
