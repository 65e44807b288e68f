"""Arguments of a program from the fields of a dataclass."""

import argparse

import pytest

from d2v_train.data.tables import SourceSettings
from d2v_train.options.arguments import add_arguments, given
from d2v_train.probing.run import ProbeSettings


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser()
    add_arguments(parser, ProbeSettings)
    add_arguments(parser, SourceSettings, only=("column", "label_column"))
    return parser


def test_values_have_the_types_and_defaults_of_the_fields(parser):
    args = parser.parse_args(["folder", "--modality", "text"])
    assert ProbeSettings(**given(args, ProbeSettings.__dataclass_fields__)) == ProbeSettings(
        model="folder", modality="text"
    )
    args = parser.parse_args(
        "folder --modality text --seeds 3 4 --layer 2 --few 5 --column a b --no_simple --test_groups x".split()
    )
    settings = ProbeSettings(**given(args, ProbeSettings.__dataclass_fields__))
    assert (settings.seeds, settings.layer, settings.few, settings.simple) == ([3, 4], 2, 5, False)
    assert settings.test_groups == ["x"] and given(args, ["column", "label_column"]) == {"column": ["a", "b"]}
    assert parser.parse_args("folder --modality text --layer last".split()).layer is None


def test_help_says_what_stands_below_each_field_and_its_default(parser):
    text = " ".join(parser.format_help().split())
    assert "Labels per class of the few-label probe. Default: 10." in text
    assert "--layer LAYER N for `hidden_states[N]`, or `last` for the pooled output. Default: last." in text
    assert "Draws of the few-label probe. Default: 0 1 2 3 4." in text
    assert "--no_simple Do not measure simple features" in text and "--simple" not in text
    assert "--train_split TRAIN_SPLIT Split that the classifier is fitted on. Default: train." in text  # inherited
    assert "--dataset" not in text and "--channels" not in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["folder"], "--modality"),
        (["--modality", "text"], "model"),
        (["folder", "--modality", "video"], "'video'"),
        (["folder", "--modality", "text", "--layer", "top"], "'top' is neither 'last' nor a whole number"),
        (["folder", "--modality", "text", "--few", "many"], "--few"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(parser, capsys, arguments, words):
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert words in capsys.readouterr().err
