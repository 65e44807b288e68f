"""The command `d2v`: its list of programs, and what it says where there is nothing to start."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d2v_train.programs import cli


ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = sorted(path.stem for path in (ROOT / "recipes" / "d2v_train" / "programs").glob("[!_]*.py"))
LAUNCHER = """
import sys

import clone  # noqa: F401  # a clone that is not installed: puts its packages on the path
from d2v_train.programs.{name} import main


if __name__ == "__main__":
    sys.exit(main())
"""


def test_every_program_has_a_command_and_a_launcher():
    assert sorted(file for file, _ in cli.COMMANDS.values()) == [name for name in PROGRAMS if name != "cli"]
    for file, _ in cli.COMMANDS.values():
        launcher = (ROOT / "recipes" / f"{file}.py").read_text(encoding="utf-8")
        assert launcher.endswith('"""\n' + LAUNCHER.format(name=file)) and f"d2v_train/programs/{file}.py" in launcher


@pytest.mark.parametrize("argv", [[], ["--help"]], ids=["alone", "help"])
def test_all_commands_are_listed_with_a_line_each(argv, capsys):
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, purpose) in cli.COMMANDS.items():
        assert [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [name]] == [purpose]


def test_the_list_needs_no_library():
    """Without site-packages there is none. A program then says in a sentence what to install."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'recipes')!r}); from d2v_train.programs.cli import main; "
    listed = subprocess.run([sys.executable, "-S", "-c", code + "sys.exit(main(['-h']))"], capture_output=True)
    assert listed.returncode == 0 and b"finetune-audio" in listed.stdout
    started = subprocess.run(
        [sys.executable, "-S", "-c", code + "sys.exit(main(['pretrain', 'tiny_vision']))"],
        capture_output=True,
        text=True,
    )
    assert started.returncode == 1 and len(started.stderr.splitlines()) == 1
    assert "not installed" in started.stderr and 'pip install "modeling-d2v[train]"' in started.stderr


@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        ("accelerate_of_nowhere.utils", "d2v probe: accelerate_of_nowhere is not installed."),
        ("torch.of_nowhere", None),
    ],
)
def test_only_a_missing_library_is_one_to_install(library, sentence, monkeypatch):
    def fail(name):
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    if sentence is None:
        with pytest.raises(ModuleNotFoundError, match="of_nowhere"):
            cli.main(["probe", "--help"])
    else:
        assert cli.main(["probe", "--help"]).startswith(sentence)


def test_an_unknown_command_is_an_error_that_names_the_nearest(capsys):
    assert cli.main(["pretrian", "tiny_vision"]) == 2
    error = capsys.readouterr().err
    assert "'pretrian'" in error and "'pretrain'" in error and len(error.splitlines()) == 1


def test_a_command_ends_like_its_program(tmp_path):
    arguments = ["tiny_vision", f"output_dir={tmp_path / 'run'}", "vision.batch=3"]
    ended = importlib.import_module("d2v_train.programs.pretrain").main(arguments)
    assert "OptionError" in ended and cli.main(["pretrain", *arguments]) == ended


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_usage_names_the_command_however_the_program_was_started(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/program.py"])
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out + str(end.value.code)
    assert f"d2v {name}" in shown and "program.py" not in shown


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if not name.startswith("finetune")])
def test_help_waits_for_no_model_library(name):
    """The help of the fine-tuning programs lists the options of transformers' `TrainingArguments`, and needs it."""
    code = (
        "import sys\n"
        "from d2v_train.programs import cli\n"
        "try:\n"
        f"    cli.main([{name!r}, '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(*sorted({'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules)), file=sys.stderr)\n"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "recipes")])
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert ended.stderr.split() == [] and f"d2v {name}" in ended.stdout
