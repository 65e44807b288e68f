"""`--help`: every option with its default and its documentation, out of the source."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from d2v_train.options import documentation
from d2v_train.options.fields import dotted_names, field_types, is_free, section_class
from d2v_train.options.help import groups, help_text, markdown, merged
from d2v_train.options.run import Options
from d2v_train.programs.pretrain import show_help


ROOT = Path(__file__).resolve().parents[3]
EVERY = {option.name: option for option in documentation.options()}
FIELDS = list(dotted_names(Options))


def default_of(name):
    """Default of an option, as the class that holds it makes it."""
    section, *names = Options, *name.split(".")
    for part in names[:-1]:
        section = section_class(field_types(section)[part])
    field = next(field for field in dataclasses.fields(section) if field.name == names[-1])
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def words(text):
    return " ".join(text.split())


def test_every_field_of_every_section_is_shown_with_its_doc_line_default_and_mark():
    assert set(FIELDS) == {name for name, option in EVERY.items() if not option.listed}
    shown = words(help_text(width=100))
    for name in FIELDS:
        option = EVERY[name]
        assert option.default == default_of(name), name
        assert option.is_free == is_free(Options, name), name
        assert name in shown and words(option.doc) in shown, name
    entries = {names: option for _, _, members in groups() for names, option in merged(members)}
    assert sorted(name for names in entries for name in names.split(", ")) == sorted(EVERY)
    for line in (
        "max_steps = 1000 (int, free on resume) Optimizer steps",
        "seed = 0 (int) Seed",
        "optim.betas = [0.9, 0.98] (list[float]) Decay",
        "logging.report_to = [] (list[str], free on resume) Trackers",
        "text.batch_size, vision.batch_size, audio.batch_size, arrays.batch_size = null (int or null) Samples",
        "probe.text.data, probe.vision.data, probe.audio.data, probe.arrays.data = null (str or null, free on resume) "
        "Labelled",
    ):
        assert line in shown


def test_one_section_or_option_is_shown_in_full():
    optim = words(help_text(["optim"]))
    assert all(EVERY[name].doc in optim for name in FIELDS if name.startswith("optim."))
    assert "checkpoints.every" not in optim and optim.startswith("optim: AdamW")
    run = help_text(["run"])
    assert "max_steps = 1000" in run and "optim.lr" not in run
    assert EVERY["model.vision_config.patch_size"].doc in words(help_text(["model.vision_config"]))
    assert words(help_text(["--vision.batch_size"])).startswith("vision.batch_size = null")
    both = help_text(["hub", "logging.every"])
    assert "hub.push" in both and "logging.every" in both and "logging.project" not in both
    with pytest.raises(LookupError, match="'log_every'.*'logging.every'"):
        help_text(["log_every"])


@pytest.mark.parametrize("width", [60, 100, 119])
def test_lines_fit_the_terminal(width):
    lines = [line for text in (help_text(width=width), help_text(["model"], width)) for line in text.splitlines()]
    # A name cannot be broken.
    assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []


def test_the_program_ends_after_its_help(capsys):
    show_help(["tiny_vision", "optim.lr=1"])
    for arguments in (["--help"], ["-h"], ["tiny_vision", "--help"]):
        with pytest.raises(SystemExit) as end:
            show_help(arguments)
        assert not end.value.code
        shown = capsys.readouterr().out
        assert "pretrain" in shown.splitlines()[2] and "hub.model_id" in shown
    with pytest.raises(SystemExit, match="'optim.lr'"):
        show_help(["--help", "lr"])


def test_nobody_waits_for_help():
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'recipes')!r})\n"
        "sys.argv = ['pretrain.py', '--help', 'optim']\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'recipes' / 'pretrain.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    assert not {'torch', 'transformers', 'numpy', 'accelerate'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "optim.lr = 0.001  (float)" in done.stdout, done.stderr


def test_the_page_of_the_documentation_is_up_to_date():
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == markdown(), "write it anew: python -m d2v_train.options.help --markdown > docs/options.md"
