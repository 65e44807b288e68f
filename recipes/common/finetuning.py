"""Options and steps that every fine-tuning program shares.

A program defines its data options, a subclass of `FinetuningArguments` with the published settings of its task as
defaults, and a `FinetuningTrainer`; parsing, loading, resuming, evaluation, the record and the upload happen here.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import (
    AutoConfig,
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from modeling_d2v import Data2VecConfig
from recipes.common.atomic import write_json
from recipes.common.finetuning_resume import check_options, is_finished, resume_point
from recipes.common.finetuning_trainer import FinetuningTrainer, check_bad_samples
from recipes.common.optional import MissingDependencyError


logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    """Which model to start from."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a name on the Hub."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": "Configuration, where it is not the checkpoint's: folder, Hub name or preset."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, where it is not the checkpoint's."})
    processor_name: str | None = field(
        default=None, metadata={"help": "Feature extractor or image processor, where it is not the checkpoint's."}
    )
    from_scratch: bool = field(
        default=False, metadata={"help": "Random weights instead of the checkpoint's: the baseline of a comparison."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit on the Hub."})
    token: str | None = field(default=None, metadata={"help": "Access token of the Hub; default is the stored one."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run the code that lies beside a checkpoint instead of the installed package."},
    )
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Load a fine-tuned checkpoint whose head has another number of classes."}
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path is None and (self.config_name is None or not self.from_scratch):
            raise ValueError(
                "Name the checkpoint to start from with --model_name_or_path, or a configuration with --config_name "
                "and --from_scratch for random weights."
            )

    @property
    def hub_options(self) -> dict[str, Any]:
        """Arguments that every `from_pretrained` of this run takes."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }

    @property
    def finetuned_from(self) -> str | None:
        """Checkpoint that gives the weights; None for random ones."""
        return None if self.from_scratch else self.model_name_or_path


@dataclass
class FinetuningArguments(TrainingArguments):
    """`TrainingArguments` and what fine-tuning data2vec takes beside them."""

    output_dir: str | None = field(default=None, metadata={"help": "Folder of the run."})
    # A loss that is no number shall be seen, not averaged away.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Keep such losses out of the log."})
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor of the learning rate from each layer to the one below; 1 = off."}
    )
    freeze_encoder_steps: int = field(default=0, metadata={"help": "Updates at the start that train the head alone."})
    tri_stage: str | None = field(
        default=None,
        metadata={
            "help": "Shares of the run for warm-up, hold and decay, such as 0.1,0.4,0.5; replaces the scheduler."
        },
    )
    weights_ema_decay: float | None = field(
        default=None, metadata={"help": "Evaluate and keep a moving average of the weights with this decay."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without improvement."}
    )
    early_stopping_threshold: float = field(default=0.0, metadata={"help": "Least change that is an improvement."})
    max_bad_fraction: float = field(
        default=0.05, metadata={"help": "Stop when more than this share of the samples is broken."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("Name the folder of the run with --output_dir.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer_decay is {self.layer_decay}; it must be above 0 and at most 1.")
        if self.weights_ema_decay is not None and not 0 < self.weights_ema_decay < 1:
            raise ValueError(f"--weights_ema_decay is {self.weights_ema_decay}; it must be between 0 and 1.")
        self.tri_stage_phases = self._phases()
        if self.ddp_find_unused_parameters is None:
            # Every parameter takes part in every step, also of blocks that are left out. Only while the encoder is
            # frozen do some get no gradient, and several processes must not wait for one.
            self.ddp_find_unused_parameters = self.freeze_encoder_steps > 0
        if self.early_stopping_patience is not None:
            if "no" in (self.eval_strategy, self.save_strategy):
                raise ValueError(
                    "--early_stopping_patience needs --eval_strategy and --save_strategy: both epoch, or both steps."
                )
            self.load_best_model_at_end = True
        super().__post_init__()
        # Without an accelerator there is nothing to pin for, and torch says so at every epoch.
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"

    def _phases(self) -> tuple[float, float, float] | None:
        if self.tri_stage is None or self.tri_stage.lower() in ("", "none"):
            self.tri_stage = None
            return None
        try:
            phases = tuple(float(share) for share in self.tri_stage.split(","))
        except ValueError:
            phases = ()
        if len(phases) != 3 or min(phases) < 0 or abs(sum(phases) - 1) > 1e-6:
            raise ValueError(
                f"--tri_stage is {self.tri_stage!r}; it takes three shares that sum to 1, as 0.1,0.4,0.5."
            )
        return phases


def parse_arguments(*classes: type, argv: list[str] | None = None) -> tuple[Any, ...]:
    """Options of a program as one instance per dataclass.

    The first argument may be a .yaml or .json file of options; what follows on the command line replaces what it says.

    Args:
        classes: dataclasses of options.
        argv: arguments; default is the command line.
    """
    argv = sys.argv[1:] if argv is None else argv
    # No abbreviations: an option that is added later would change what they mean.
    parser = _Parser(classes, allow_abbrev=False)
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

    Raises:
        ValueError: if the file holds no options.
        OSError: if it cannot be read.
    """
    if argv and Path(argv[0]).suffix in (".yaml", ".yml", ".json"):
        return _arguments_in(Path(argv[0])) + list(argv[1:])
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


def prepare_program(args: FinetuningArguments) -> None:
    """Log level and seed of a program, and mistakes that it shall not take minutes to find.

    Raises:
        ValueError: if there is nothing to do, or nowhere to write.
    """
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("Nothing to do: give --do_train, --do_eval or --do_predict.")
    check_folder(Path(args.output_dir))
    # Of several processes, the first one speaks.
    level = logging.INFO if args.process_index == 0 else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    # A line for every request to the Hub.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    transformers_logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)


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


def load_config(model_args: ModelArguments, **overrides: Any) -> Data2VecConfig:
    """The configuration to fine-tune with.

    Args:
        model_args: where from.
        overrides: fields that replace the checkpoint's; a dictionary changes fields of that sub-configuration. `None`
            leaves a field as it is.

    Raises:
        ValueError: if there is no such model, or it has no such field.
    """
    name = model_args.config_name or model_args.model_name_or_path
    if name in Data2VecConfig.preset_names() and not Path(name).exists():
        config = Data2VecConfig.preset(name)
    else:
        try:
            config = AutoConfig.from_pretrained(name, **model_args.hub_options)
        except OSError as error:
            raise ValueError(
                f"{name} is no folder with a config.json, no preset ({', '.join(Data2VecConfig.preset_names())}), and "
                f"not to be had from the Hub: {str(error).splitlines()[0]}"
            ) from error
    for key, value in overrides.items():
        _override(config, key, value)
    for part in (config, *map(config.modality_config, config.modalities)):
        part.check()
    return config


def _override(config: Any, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, dict) and hasattr(getattr(config, key, None), "to_dict"):
        for name, inner in value.items():
            _override(getattr(config, key), name, inner)
    elif hasattr(config, key):
        setattr(config, key, value)
    else:
        raise ValueError(f"{type(config).__name__} has no field {key!r}.")


def load_model(auto_class: Any, model_args: ModelArguments, config: Data2VecConfig) -> PreTrainedModel:
    """The model to fine-tune: the checkpoint's weights under a new head, or random ones.

    Args:
        auto_class: such as `AutoModelForImageClassification`.
        model_args: where from, and whether from scratch.
        config: from `load_config`.
    """
    if model_args.from_scratch:
        return auto_class.from_config(config, trust_remote_code=model_args.trust_remote_code)
    return auto_class.from_pretrained(
        model_args.model_name_or_path,
        config=config,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
        **model_args.hub_options,
    )


def run(trainer: FinetuningTrainer, *, predict: Callable[[], dict[str, float]] | None = None) -> dict[str, float]:
    """Trains and evaluates as --do_train and --do_eval say, writes the record and the card, uploads if asked.

    Args:
        trainer: with model, data sets and processor.
        predict: called after the evaluation; writes predictions, and returns metrics for the card and the results.

    Returns:
        All metrics, as in `all_results.json`.
    """
    args = trainer.args
    if args.do_train:
        trainer.results |= _train(trainer)
    if args.do_eval:
        trainer.results |= record(trainer, "eval", trainer.evaluate())
    if predict is not None:
        trainer.results |= predict()
    report_bad_samples(trainer)
    trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    return trainer.results


def _train(trainer: FinetuningTrainer) -> dict[str, float]:
    args = trainer.args
    if is_finished(args):
        check_options(args, _origin(trainer), resumes=True)
        logger.info("The run in %s is finished; nothing is trained.", args.output_dir)
        trainer.load_finished()
        return json.loads((Path(args.output_dir) / "train_results.json").read_text(encoding="utf-8"))
    checkpoint = resume_point(args)
    check_options(args, _origin(trainer), resumes=checkpoint is not None)
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.keep_average()
    # The upload comes once, when the card is there too.
    trainer.save_model(_internal_call=True)
    metrics = record(trainer, "train", outcome.metrics)
    # Written last: it says that the run is finished.
    trainer.save_state()
    return metrics


def _origin(trainer: FinetuningTrainer) -> dict[str, Any]:
    """What a run starts from and learns from, as far as the program says it."""
    origin = {}
    if "finetuned_from" in trainer.card:
        origin["start"] = trainer.card["finetuned_from"] or "random weights"
    if hasattr(trainer.train_dataset, "raw"):
        found = trainer.train_dataset.raw.fingerprint()
        origin["training data"] = f"{found['records']} samples, {found['names']}"
    return origin


def record(trainer: FinetuningTrainer, name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Prints metrics of "train", "eval" or "test", and adds them to the files of the run."""
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


def report_bad_samples(trainer: FinetuningTrainer) -> None:
    """Names the broken samples of every data set on the screen and in `bad_samples.json`.

    Raises:
        ValueError: if more than `--max_bad_fraction` of a data set is broken.
    """
    for dataset in trainer.raw_datasets.values():
        # Each process has met those of its own part.
        for flags in gather_object([dataset.bad.flags.tolist()]):
            dataset.bad.flags |= torch.tensor(flags, dtype=dataset.bad.flags.dtype)
    met = {name: dataset for name, dataset in trainer.raw_datasets.items() if dataset.bad}
    if met and trainer.is_world_process_zero():
        for name, dataset in met.items():
            print(f"{name} data: {dataset.bad.report()}")
        listed = {
            name: {reason: dataset.bad.names(reason) for reason in dataset.bad.counts()}
            for name, dataset in met.items()
        }
        write_json(Path(trainer.args.output_dir) / "bad_samples.json", listed)
    check_bad_samples(met, trainer.args.max_bad_fraction)


def launch(main: Callable[[list[str]], dict[str, Any]]) -> None:
    """Runs a program: its results as one line of JSON, mistakes of the user as one sentence.

    Args:
        main: takes the command line, returns the metrics.
    """
    try:
        results = main(sys.argv[1:])
    except (ValueError, OSError, MissingDependencyError) as error:
        if "debug" in sys.argv:  # --log_level debug shows where
            raise
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    if PartialState().is_main_process:
        print(json.dumps(results))
    PartialState().destroy_process_group()
