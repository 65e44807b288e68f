"""Command line of the fine-tuning programs: options, configurations and error messages."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from d2v_train.finetuning.arguments import DataArguments, FinetuningArguments
from d2v_train.options.errors import OptionError
from d2v_train.options.files import CONFIG_FOLDER, read_yaml
from d2v_train.options.source import constant
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.storage import WriteError


# Names of options in other programs and in former releases of transformers.
OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "data": "dataset_name",
    "dataset": "dataset_name",
    "do_lower_case": "case",
    "eval_split": "validation_split",
    "eval_split_name": "validation_split",
    "group_by_length": "train_sampling_strategy",
    "half_precision_backend": "bf16",
    "labels": "label_column",
    "lr": "learning_rate",
    "max_length": "max_seq_length",
    "model": "model_name_or_path",
    "no_cuda": "use_cpu",
    "overwrite_output_dir": "output_dir",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_organization": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "resume": "resume_from_checkpoint",
    "use_auth_token": "token",
    "use_mps_device": "use_cpu",
    "wandb": "report_to",
    "warmup_ratio": "warmup_steps",
}
MISSPELLED = 0.75
"""Least similarity of a misspelled name to the one that was meant."""


def parse_arguments(*classes: type, argv: list[str], prog: str | None = None) -> tuple[Any, ...]:
    """Parse the options of a program.

    The first argument may be a configuration: a .yaml or .json file of options, or the name of one in
    `d2v_train/configs`. Options on the command line override it.

    Args:
        classes: Dataclasses of options.
        argv: Arguments.
        prog: Name of the program in its usage and errors; None for that of the process.

    Returns:
        An instance of each dataclass.
    """
    # No abbreviations: options added later would change their meaning.
    parser = _Parser(classes, prog=prog, allow_abbrev=False, add_help=False)
    try:
        argv = with_options_of_file(argv, parser)
        _, unknown = parser.parse_known_args(argv)
        if unknown:
            name = unknown[0].partition("=")[0]
            raise OptionError(f"There is no option {name}. The nearest valid one is --{parser.nearest(name)}.")
        options = parser.parse_args_into_dataclasses(args=argv)
        run = [part for part in options if isinstance(part, FinetuningArguments)]
        for part in options:
            if run and isinstance(part, DataArguments):
                part.check_run(run[0])
        return options
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


def with_options_of_file(argv: Sequence[str], parser: _Parser | None = None) -> list[str]:
    """Return the command line with a configuration as first argument replaced by its options.

    Args:
        argv: Arguments.
        parser: Parser of the program, which names its configurations in the error.

    Raises:
        OptionError: If the configuration does not exist or contains no options.
    """
    if not argv or argv[0].startswith("-"):
        return list(argv)
    words = []
    tree = read_yaml(_configuration(argv[0], parser))
    if "model" in tree and set(constant("modeling_d2v.modalities", "MODALITIES")) & set(tree):
        raise OptionError(f"{argv[0]} is a configuration of pretraining. Give one of fine-tuning, or options alone.")
    for name, value in tree.items():
        if value is not None:
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            words += [f"--{name}", *map(str, values)]
    return words + list(argv[1:])


def _configuration(name: str, parser: _Parser | None) -> Path:
    for path in (Path(name), CONFIG_FOLDER / name, CONFIG_FOLDER / f"{name}.yaml"):
        if path.is_file():
            return path
    known = [path.stem for path in sorted(CONFIG_FOLDER.glob("*.yaml")) if parser and parser.takes(read_yaml(path))]
    listed = f" or one of the names {', '.join(known)}" if known else ""
    raise OptionError(f"There is no configuration {name!r}. Give the path of a YAML file{listed}; options have --.")


class _Parser(HfArgumentParser):
    """Parser of dataclasses that knows what was meant by an unknown option; `Program` has the help."""

    def __init__(self, classes: Sequence[type], **options: Any) -> None:
        super().__init__(classes, **options)
        self.names = [field.name for kind in classes for field in dataclasses.fields(kind) if field.init]

    def takes(self, options: dict[str, Any]) -> bool:
        """Return whether all options of a configuration are options of this program."""
        return options.keys() <= set(self.names)

    def nearest(self, unknown: str) -> str:
        """Return the most likely intended option.

        The name in another program, the closest one with a common prefix, or else the closest of all, in this order.
        """
        name = unknown.lstrip("-").replace("-", "_")
        names = self.names
        others = {other: own for other, own in OTHER_NAMES.items() if own in names}
        if name in others:
            return others[name]
        alike = [known for known in names if known.startswith(name) or name.startswith(known)] if name else []
        if alike:
            return difflib.get_close_matches(name, alike, n=1, cutoff=0.0)[0]
        (nearest,) = difflib.get_close_matches(name, [*names, *others], n=1, cutoff=MISSPELLED) or [None]
        return others.get(nearest, nearest) or difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]

    def error(self, message: str) -> NoReturn:
        # argparse would print hundreds of lines of options first.
        self.exit(2, f"{self.prog}: {message}\n")


def check_folder(folder: Path) -> None:
    """Check that a folder can be created and written to.

    Raises:
        ValueError: If it is a file or not writable.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output_dir {folder} cannot be a folder: {existing} is a file.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir {folder} cannot be written: {existing} is read-only for this user.")


def launch(program: Callable[[list[str]], dict[str, Any]], argv: list[str] | None = None) -> int | str:
    """Run a program as a process and print its results as one line of JSON.

    Args:
        program: Function from the arguments to the metrics.
        argv: Arguments; None for the command line.

    Returns:
        Exit status: 0, or a message that describes a mistake of the user.
    """
    from accelerate import PartialState

    argv = sys.argv[1:] if argv is None else argv
    try:
        results = program(argv)
    except (ValueError, OSError, MissingDependencyError, WriteError) as error:
        if "debug" in argv:  # --log_level debug shows the traceback
            raise
        return f"{type(error).__name__}: {error}"
    if PartialState().is_main_process:
        print(json.dumps(results))
    PartialState().destroy_process_group()
    return 0
