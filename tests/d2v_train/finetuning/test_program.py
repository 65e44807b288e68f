"""The help of the fine-tuning programs, read from the source, against the parser that reads the options."""

import dataclasses
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from transformers.hf_argparser import HfArgumentParser

from d2v_train.finetuning.program import OWN_GROUPS, TRAINING_GROUPS, is_flag
from d2v_train.options.source import fields_of
from d2v_train.programs import (
    finetune_audio_classification,
    finetune_ctc,
    finetune_glue,
    finetune_image_classification,
)


RECIPES = Path(__file__).resolve().parents[3] / "recipes"
PROGRAMS = (finetune_audio_classification, finetune_ctc, finetune_glue, finetune_image_classification)
each_program = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__.split(".")[-1])


def places(program):
    return [place.split(":") for place in program.PROGRAM.classes]


@each_program
def test_the_source_tells_what_the_parser_knows(program):
    """Names in the same order, defaults, lines of help, choices, and which names need no value."""
    classes = [getattr(import_module(module), name) for module, name in places(program)]
    actions = {}
    for action in HfArgumentParser(classes, add_help=False)._actions:
        actions.setdefault(action.dest, action)  # an option that is on by default has a second one, --no_option
    read = [option for place in places(program) for option in fields_of(*place)]
    assert [option.name for option in read] == list(actions)
    for option in read:
        action = actions[option.name]
        # The parser forgets the default of a list, an empty string.
        assert option.default == action.default or (option.default, action.default) == ("", None), option
        assert option.doc == " ".join(action.help.split()), option
        assert is_flag(option) == (action.const is True), option
        if option.name.startswith("log_level"):  # computed by transformers; its help names them
            assert not option.choices and "'passive'" in option.doc or option.name == "log_level_replica"
        else:
            assert option.choices == tuple(action.choices or ()), option


@each_program
def test_help_lists_every_option_once_with_its_default_and_its_line(program, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(program.__doc__.strip())
    entries = dict(re.findall(r"^  --(\w+)\b(.*(?:\n {30}.*)*)", printed, re.M))
    fields = {
        field.name: field
        for module, name in places(program)
        for field in dataclasses.fields(getattr(import_module(module), name))
        if field.init
    }
    assert list(entries) and len(re.findall(r"^  --", printed, re.M)) == len(entries)
    assert entries.keys() == fields.keys()
    for name, field in fields.items():
        entry = " ".join(entries[name].split())
        line = " ".join(field.metadata.get("help", "").replace("%%", "%").split())
        # Long words are broken at the edge of the text.
        assert line.replace(" ", "") in entry.replace(" ", ""), name
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        if isinstance(default, int | float):
            assert f"(default:{default})" in entry.replace(" ", ""), name


@each_program
def test_help_begins_with_our_own_options(program):
    found = re.findall(r"^(\w.*):$(?=\n  --)", program.PROGRAM.help(), re.M)
    assert found == [group for group in (*OWN_GROUPS, *TRAINING_GROUPS) if group in found]
    assert {"model", "data", "this task", "speed and memory", "several devices"} <= set(found)


@pytest.mark.parametrize("asked", [["--help"], ["ctc_10m", "--do_train", "-h"]])
def test_help_imports_neither_torch_nor_transformers(asked):
    """Also after other options, and for every program."""
    for program in PROGRAMS:
        code = (
            "import sys, atexit\n"
            "atexit.register(lambda: print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()), "
            "file=sys.stderr))\n"
            f"from {program.__name__} import main\n"
            f"main({asked})"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=RECIPES, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.strip() == "[]", done.stderr
        assert f"usage: {program.PROGRAM.name} [CONFIGURATION]" in done.stdout
