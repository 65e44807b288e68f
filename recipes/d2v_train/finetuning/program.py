"""A fine-tuning program: its options by name, its `--help`, its start.

Help is read from the source of the classes of options, those of transformers included: it needs neither PyTorch
nor transformers, which take seconds to import.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from d2v_train.options.source import Expression, Option, class_constant, fields_of


TRAINING_ARGUMENTS = ("transformers.training_args", "TrainingArguments")
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
HELP_COLUMN, HELP_WIDTH = 34, 119


@dataclass(frozen=True)
class Program:
    """A fine-tuning program.

    Attributes:
        name: Command, such as "d2v finetune-ctc".
        description: Description for `--help`.
        classes: Classes of its options, as "module:Class".
    """

    name: str
    description: str
    classes: tuple[str, ...]

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Return an instance of each class of options; with --help, print it and exit."""
        self.answer_help(argv)
        # The parser and the classes of options import PyTorch and transformers.
        from importlib import import_module

        from d2v_train.finetuning.command_line import parse_arguments

        places = [place.split(":") for place in self.classes]
        classes = [getattr(import_module(module), name) for module, name in places]
        return parse_arguments(*classes, argv=list(argv), prog=self.name)

    def launch(self, run: Callable[[list[str]], dict[str, Any]], argv: Sequence[str] | None = None) -> int | str:
        """Run the program as a process, see `d2v_train.finetuning.command_line.launch`."""
        argv = sys.argv[1:] if argv is None else list(argv)
        self.answer_help(argv)
        from d2v_train.finetuning.command_line import launch

        return launch(run, argv)

    def answer_help(self, argv: Sequence[str]) -> None:
        """Print the help and exit if the arguments ask for it."""
        if {"-h", "--help"} & set(argv):
            print(self.help(), end="")
            raise SystemExit(0)

    def help(self) -> str:
        """Return the help: every option in its group, those of this package first."""
        trained = {option.name for option in fields_of(*TRAINING_ARGUMENTS)}
        groups: dict[str, list[Option]] = {name: [] for name in (*OWN_GROUPS, *TRAINING_GROUPS)}
        for place in self.classes:
            module, _, name = place.partition(":")
            title = class_constant(module, name, "title")
            for option in fields_of(module, name):
                groups[training_group(option.name) if option.name in trained else title].append(option)
        parts = [
            self.description.strip(),
            f"usage: {self.name} [CONFIGURATION] [--OPTION VALUE ...]\n\n"
            "CONFIGURATION is a YAML file of options, or the name of one in d2v_train/configs.",
            *("\n".join([f"{group}:", *map(_entry, options)]) for group, options in groups.items() if options),
        ]
        return "\n\n".join(parts) + "\n"


def training_group(name: str) -> str:
    """Return the group of an option of TrainingArguments; the last group takes the rest."""
    return next(group for group, starts in TRAINING_GROUPS.items() if name.startswith(tuple(starts.split()) or ""))


def is_flag(option: Option) -> bool:
    """Return whether the name of an option alone sets it to true."""
    kinds = option.type.split(" | ")
    return option.bare or ("bool" in kinds and (option.default is not None or "None" not in kinds))


def _entry(option: Option) -> str:
    """Return the help of one option."""
    name = f"  --{option.name}"
    if is_flag(option):
        name += f", --no_{option.name}" if option.default is True else ""
    elif not option.choices:
        kinds = [kind for kind in option.type.split(" | ") if kind != "None"]
        # The parser takes several values for `str | list[str]`, but one for `None | str | list[str]`.
        several = re.fullmatch(r"list\[(\w+)\]", kinds[0] if "None" in option.type else kinds[-1])
        kind = several[1] if several else "str" if "str" in kinds else kinds[0].partition("[")[0]
        name += f" {kind.upper()}" + (" ..." if several else "")
    text = option.doc.replace("%%", "%")
    if option.choices:
        text += f" One of {', '.join(map(str, option.choices))}."
    if option.default not in (None, [], "") and not isinstance(option.default, Expression):
        shown = option.default
        text += f" (default: {' '.join(map(str, shown)) if isinstance(shown, list) else shown})"
    lines = textwrap.wrap(text, HELP_WIDTH - HELP_COLUMN) or [""]
    if len(name) < HELP_COLUMN - 1:
        name, lines = f"{name:{HELP_COLUMN}}{lines[0]}", lines[1:]
    return "\n".join([name.rstrip(), *(" " * HELP_COLUMN + line for line in lines)])
