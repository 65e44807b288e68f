"""Command line of the fine-tuning programs."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from accelerate import PartialState
from transformers import (
    HfArgumentParser,
)

from d2v_train.options.files import CONFIG_FOLDER
from d2v_train.support.extras import MissingDependencyError


def parse_arguments(*classes: type, argv: list[str], prog: str | None = None) -> tuple[Any, ...]:
    """Options of a program as one instance per dataclass.

    The first argument may be a .yaml or .json file of options; what follows on the command line replaces what it says.

    Args:
        classes: dataclasses of options.
        argv: arguments.
        prog: name of the program in its usage and errors; None for that of the process.
    """
    # No abbreviations: an option that is added later would change what they mean.
    parser = _Parser(classes, prog=prog, allow_abbrev=False)
    try:
        argv = with_options_of_file(argv)
        _, unknown = parser.parse_known_args(argv)
        if unknown:
            known = [name for action in parser._actions for name in action.option_strings]
            nearest = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)
            raise ValueError(f"There is no option {unknown[0]}. The nearest valid one is {nearest[0]}.")
        return parser.parse_args_into_dataclasses(args=argv)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def with_options_of_file(argv: Sequence[str]) -> list[str]:
    """A command line whose first argument may be a file of options, with these options in its place.

    A file that is not there is looked for among the configurations of this package.

    Raises:
        ValueError: if the file holds no options.
        OSError: if it cannot be read.
    """
    if argv and Path(argv[0]).suffix in (".yaml", ".yml", ".json"):
        path, shipped = Path(argv[0]), CONFIG_FOLDER / argv[0]
        return _arguments_in(path if path.exists() or not shipped.is_file() else shipped) + list(argv[1:])
    return list(argv)


class _Parser(HfArgumentParser):
    """Without the list of all options, hundreds of lines, above every error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _arguments_in(path: Path) -> list[str]:
    """Options of a file, written as a command line."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{path} holds no options; its top level must be `name: value` lines.")
    words = []
    for name, value in options.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        words += [f"--{name}", *map(str, values)]
    return words


def check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be made or written to.

    Raises:
        ValueError: if it is a file, or may not be written to.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output_dir {folder} cannot be a folder: {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir {folder} cannot be written: {existing} is read-only for this user.")


def launch(program: Callable[[list[str]], dict[str, Any]], argv: list[str] | None = None) -> int | str:
    """Run a program as a process, and print its results as one line of JSON.

    Args:
        program: takes the arguments, returns the metrics.
        argv: arguments; None for the command line.

    Returns:
        What the process ends with: 0, or the mistake of the user in a sentence.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        results = program(argv)
    except (ValueError, OSError, MissingDependencyError) as error:
        if "debug" in argv:  # --log_level debug shows where
            raise
        return f"{type(error).__name__}: {error}"
    if PartialState().is_main_process:
        print(json.dumps(results))
    PartialState().destroy_process_group()
    return 0
