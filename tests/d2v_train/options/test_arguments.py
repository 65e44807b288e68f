"""Arguments of a program: the fields of a dataclass, with their documentation."""

import argparse

import pytest

from d2v_train.options.arguments import add_arguments, arguments_of
from d2v_train.probing.run import ProbeSettings


def parser_of(cls, **settings):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser, cls, **settings)
    return parser


def values(*arguments):
    parser = parser_of(ProbeSettings, positional=["model"])
    return arguments_of(parser.parse_args(["folder", *arguments]), ProbeSettings)


def test_values_have_the_types_of_the_fields():
    given = values("--modality", "vision", "--max_samples", "12", "--seeds", "1", "2")
    assert given["model"] == "folder" and given["max_samples"] == 12 and given["seeds"] == [1, 2]
    assert "data" not in given, "what is None is left to the dataclass"
    settings = ProbeSettings(**given)
    assert settings.modality == "vision" and ProbeSettings(**values("--modality", "vision")).model == "folder"


@pytest.mark.parametrize("arguments", [["--max_samples", "many"], ["--modality", "smell"], []])
def test_other_values_and_missing_ones_are_refused(arguments):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        values(*arguments)


def test_every_option_has_its_documentation():
    actions = [action for action in parser_of(ProbeSettings)._actions if action.dest != "help"]
    assert {action.dest for action in actions} == set(ProbeSettings.__dataclass_fields__)
    assert all(len(action.help) > 15 for action in actions)


def test_some_fields_can_be_chosen():
    names = {action.dest for action in parser_of(ProbeSettings, only=["data", "seeds"], without=["seeds"])._actions}
    assert names == {"help", "data"}
