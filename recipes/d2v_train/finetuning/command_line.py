"""Command line of the fine-tuning programs: options, configurations, `--help` and error messages."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import sys
import textwrap
from argparse import Action
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from d2v_train.finetuning.arguments import DataArguments, FinetuningArguments
from d2v_train.options.documentation import constant
from d2v_train.options.errors import OptionError
from d2v_train.options.files import CONFIG_FOLDER, read_yaml
from d2v_train.support.extras import MissingDependencyError
from d2v_train.support.storage import WriteError


# Group of options -> prefixes of the options of TrainingArguments in it.
TRAINING_GROUPS = {
    "speed and memory": (
        "per_device_ gradient_accumulation_steps bf16 fp16 tf32 torch_compile activation_checkpointing "
        "gradient_checkpointing dataloader_ auto_find_batch_size torch_empty_cache_steps use_cpu use_liger_kernel "
        "liger_kernel_config"
    ),
    "run": "output_dir do_ resume_from_checkpoint seed data_seed full_determinism",
    "training": (
        "num_train_epochs max_steps learning_rate lr_scheduler_ warmup_ optim weight_decay adam_ max_grad_norm "
        "label_smoothing_factor train_sampling_strategy neftune_noise_alpha average_tokens_across_devices"
    ),
    "evaluation": "eval_ metric_for_best_model greater_is_better load_best_model_at_end prediction_loss_only",
    "checkpoints": "save_ ignore_data_skip restore_callback_states enable_jit_checkpoint",
    "log": "logging_ log_ disable_tqdm report_to run_name project trackio_",
    "Hub": "push_to_hub hub_",
    "several devices": "ddp_ fsdp deepspeed accelerator_config parallelism_config local_rank",
    "other options of TrainingArguments": "",
}
OWN_GROUPS = ("model", "data", "augmentation", "this task")
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
HELP_COLUMN, HELP_WIDTH = 34, 119


def parse_arguments(
    *classes: type, argv: list[str], prog: str | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Parse the options of a program.

    The first argument may be a configuration: a .yaml or .json file of options, or the name of one in
    `d2v_train/configs`. Options on the command line override it.

    Args:
        classes: Dataclasses of options.
        argv: Arguments.
        prog: Name of the program in its usage and errors; None for that of the process.
        description: Description of the program, for --help.

    Returns:
        An instance of each dataclass.
    """
    # No abbreviations: options added later would change their meaning.
    parser = _Parser(classes, prog=prog, allow_abbrev=False, description=description)
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
    """Parser of dataclasses with grouped options in its help, those of this package first."""

    def __init__(self, classes: Sequence[type], **options: Any) -> None:
        super().__init__(classes, **options)
        trained = {field.name for field in dataclasses.fields(TrainingArguments)}
        self.groups: dict[str, list[str]] = {name: [] for name in (*OWN_GROUPS, *TRAINING_GROUPS)}
        for kind in classes:
            for field in dataclasses.fields(kind):
                if field.init:
                    self.groups[_training_group(field.name) if field.name in trained else kind.title].append(
                        field.name
                    )

    def takes(self, options: dict[str, Any]) -> bool:
        """Return whether all options of a configuration are options of this program."""
        return options.keys() <= {name for names in self.groups.values() for name in names}

    def nearest(self, unknown: str) -> str:
        """Return the most likely intended option.

        The name in another program, the closest one with a common prefix, or else the closest of all, in this order.
        """
        name = unknown.lstrip("-").replace("-", "_")
        names = [name for names in self.groups.values() for name in names]
        others = {other: own for other, own in OTHER_NAMES.items() if own in names}
        if name in others:
            return others[name]
        alike = [known for known in names if known.startswith(name) or name.startswith(known)] if name else []
        if alike:
            return difflib.get_close_matches(name, alike, n=1, cutoff=0.0)[0]
        (nearest,) = difflib.get_close_matches(name, [*names, *others], n=1, cutoff=MISSPELLED) or [None]
        return others.get(nearest, nearest) or difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]

    def format_help(self) -> str:
        actions: dict[str, Action] = {}
        for action in self._actions:
            # An option that is on by default has two actions; the second one is --no_option.
            actions.setdefault(action.dest, action)
        parts = [
            (self.description or "").strip(),
            f"usage: {self.prog} [CONFIGURATION] [--OPTION VALUE ...]\n\n"
            "CONFIGURATION is a YAML file of options, or the name of one in d2v_train/configs.",
        ]
        for group, names in self.groups.items():
            if names:
                parts.append("\n".join([f"{group}:", *(_described(actions[name]) for name in names)]))
        return "\n\n".join(filter(None, parts)) + "\n"

    def error(self, message: str) -> NoReturn:
        # argparse would print hundreds of lines of options first.
        self.exit(2, f"{self.prog}: {message}\n")


def _training_group(name: str) -> str:
    """Return the group of an option of TrainingArguments; the last group takes the rest."""
    return next(group for group, starts in TRAINING_GROUPS.items() if name.startswith(tuple(starts.split()) or ""))


def _described(action: Action) -> str:
    """Return the help of one option."""
    name = f"  --{action.dest}"
    if action.const is True:
        name += f", --no_{action.dest}" if action.default is True else ""
    elif not action.choices:
        kind = "bool" if action.type is string_to_bool else getattr(action.type, "__name__", "value")
        name += f" {kind.upper()}" + (" ..." if action.nargs == "+" else "")
    text = " ".join((action.help or "").replace("%%", "%").split())
    if action.choices:
        text += f" One of {', '.join(map(str, action.choices))}."
    if action.default not in (None, [], ""):
        shown = getattr(action.default, "value", action.default)
        text += f" (default: {' '.join(map(str, shown)) if isinstance(shown, list) else shown})"
    lines = textwrap.wrap(text, HELP_WIDTH - HELP_COLUMN) or [""]
    if len(name) < HELP_COLUMN - 1:
        name, lines = f"{name:{HELP_COLUMN}}{lines[0]}", lines[1:]
    return "\n".join([name.rstrip(), *(" " * HELP_COLUMN + line for line in lines)])


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
