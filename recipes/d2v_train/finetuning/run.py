"""The run of all fine-tuning programs, and `Task`, the base class of what is specific to one of them.

A program parses its options and calls `finetune` with a subclass of `Task`. Opening and holding out data, loading,
resuming, evaluation, predictions, results, model card and upload are the same for all programs.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import EvalPrediction, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from d2v_train.data.inventory import log_inventories
from d2v_train.data.labels import without_unlabelled
from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SplitNotFoundError
from d2v_train.finetuning.arguments import DataArguments, FinetuningArguments, ModelArguments
from d2v_train.finetuning.callbacks import check_bad_samples
from d2v_train.finetuning.command_line import check_folder
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset, data_facts, hold_out_validation
from d2v_train.finetuning.models import load_config, load_model
from d2v_train.finetuning.plain_models import PlainConfig
from d2v_train.finetuning.resume import check_options, is_finished, read_json, resume_point
from d2v_train.finetuning.trainer import FinetuningTrainer
from d2v_train.support.allocator import keep_freed_memory
from d2v_train.support.atomic import write_json, write_text
from d2v_train.support.processes import fewer_than_launched
from modeling_d2v import Data2VecConfig


logger = logging.getLogger(__name__)


class Task(ABC):
    """One kind of fine-tuning; `finetune` calls the methods in the order of their definition.

    A data set of the run is named "training", "validation" or "test". If there are several to evaluate on and to
    predict, one of `parts` follows, as in "validation matched".

    Args:
        model_args, data_args, args: Options of the program.

    Attributes:
        modality: Modality of the inputs.
        auto_class: Auto class of the model.
        hub_task: Name of the task on the Hub and of its pipeline.
        trainer_class: Class of the trainer.
        parts: Names of the data sets to evaluate on and to predict.
        skips_bad: Whether the evaluation itself finds bad samples and ignores them in its metrics, instead of a check
            before it.
        config: Configuration of the model; at first that of the checkpoint.
        is_plain: Whether the model is an encoder of transformers with a head of transformers.
    """

    modality: ClassVar[str]
    auto_class: ClassVar[Any]
    hub_task: ClassVar[str]
    trainer_class: ClassVar[type[FinetuningTrainer]] = FinetuningTrainer
    parts: Sequence[str] = ("",)
    skips_bad: ClassVar[bool] = False

    def __init__(self, model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments) -> None:
        self.model_args, self.data_args, self.args = model_args, data_args, args
        self.config = load_config(model_args)
        self.config.modality_config(self.modality)
        self.is_plain = isinstance(self.config, PlainConfig)
        if self.is_plain:
            args.ddp_find_unused_parameters = True  # poolers, vectors for masked features
            if args.push_to_hub:
                raise ValueError(
                    "--push_to_hub publishes models of this package. Upload one of transformers after the training "
                    "with `push_to_hub` of the model and of its processor."
                )

    def open(self, split: str, part: str = "") -> RawDataset:
        """Open the "train", "validation" or "test" data.

        Raises:
            SplitNotFoundError: If the data does not exist.
        """
        return self.data_args.open(split)

    def unlabelled(self, raw: RawDataset) -> np.ndarray | None:
        """Return which samples have no label to learn from or to compare with, (N,) bool; None if all have one.

        They are left out of training and validation data and count as bad samples.
        """
        return None

    def learn(self, training: RawDataset | None) -> None:
        """Determine what is learned, such as the classes, from the training data or else from the checkpoint."""
        return None

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        """Return the data sets with only the samples to use."""
        return raw

    @abstractmethod
    def configuration(self) -> Data2VecConfig:
        """Return the configuration of the checkpoint with the head and the regularisation of the run."""

    @abstractmethod
    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        """Return inputs and labels of a data set; a test set may have no labels."""

    def build_model(self, training: RawDataset | None) -> PreTrainedModel:
        """Return the model to train on `training`."""
        return load_model(self.auto_class, self.model_args, self.config)

    def card(self) -> dict[str, Any]:
        """Return further contents of the model card: arguments of `finetuned_card`."""
        return {
            "tasks": self.hub_task,
            "finetuned_from": self.model_args.finetuned_from,
            "dataset": self.data_args.described,
            "dataset_args": self.data_args.dataset_config_name,
            "model_type": self.config.plain.model_type if self.is_plain else None,
        }

    def trainer_options(self) -> dict[str, Any]:
        """Return further arguments of `trainer_class`: the collator, the processor to save with the model."""
        return {"data_collator": FinetuningCollator(self.config)}

    def describe(self, update: int) -> str:
        """Return a description of the training for the log.

        Args:
            update: Number of samples in an update.
        """
        return ""

    @abstractmethod
    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of an evaluation."""

    def after_evaluation(self, dataset: FinetuningDataset | None) -> None:
        """Write the results of the last evaluation of the run; called by the first process."""
        return None

    @abstractmethod
    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        """Write the predictions of a test set; called by the first process.

        Args:
            name: Name of the data set.
            dataset: Predicted samples.
            raw: The same data with the unusable samples.
            output: Output of `Trainer.predict`.
        """


def finetune(
    task_class: type[Task], model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments, *more: Any
) -> dict[str, float]:
    """Run a task with the given options.

    Args:
        task_class: Class of the task.
        model_args, data_args, args, more: Options, the arguments of its constructor.

    Returns:
        All metrics, as in `all_results.json`.

    Raises:
        ValueError: If options or data are wrong.
    """
    prepare_program(args)
    task = task_class(model_args, data_args, args, *more)
    raw = open_data(task)
    task.learn(raw.get("training"))
    raw = task.select(raw)
    task.config = task.configuration()
    datasets = {name: task.dataset(name, usable(task, name, part)) for name, part in raw.items()}
    validation = {name[10:].strip(): part for name, part in datasets.items() if name.startswith("validation")}
    trainer = task.trainer_class(
        model=task.build_model(raw.get("training")),
        args=args,
        train_dataset=datasets.get("training"),
        eval_dataset=validation.get("", validation) or None,
        compute_metrics=task.measure,
        raw_datasets=raw,
        # Found by the process that writes the card.
        card=task.card() | ({"data": data_facts(datasets)} if args.process_index == 0 else {}),
        **task.trainer_options(),
    )
    if args.do_train:
        update = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        logger.info(
            "%s: %d samples to train on, %d an update, learning rate %g%s.",
            task.card()["dataset_args"] or task.card()["dataset"],
            len(raw["training"]),
            update,
            args.learning_rate,
            task.describe(update),
        )

    def predict() -> dict[str, float]:
        results = {}
        if trainer.is_world_process_zero() and args.do_eval:
            task.after_evaluation(datasets.get("validation"))
        for name in [name for name in datasets if name.startswith("test")]:
            prefix = name.replace(" ", "_")
            output = trainer.predict(datasets[name], metric_key_prefix=prefix)
            if trainer.is_world_process_zero():
                task.predictions(name, datasets[name], raw[name], output)
            if output.label_ids is not None:
                results |= record(trainer, prefix, output.metrics)
        return results

    return run(trainer, predict=predict)


def open_data(task: Task) -> dict[str, RawDataset]:
    """Open the data of a run; a missing validation split is held out of the training data.

    Returns:
        Data sets by name.

    Raises:
        SplitNotFoundError: If a requested split does not exist.
        ValueError: If more than `--max_bad_fraction` of the samples have no label.
    """
    args, data = task.args, task.data_args

    def opened(split: str, name: str, part: str = "") -> RawDataset:
        whole = task.open(split, part)
        missing = task.unlabelled(whole)
        if missing is None:
            return whole
        kept = without_unlabelled(whole, missing, f"{name} data")
        check_bad_samples({name: kept}, args.max_bad_fraction)
        return kept

    raw = {"training": opened("train", "training")} if args.do_train else {}
    absent = None
    for part in task.parts if args.do_eval else ():
        name = f"validation {part}".strip()
        try:
            raw[name] = opened("validation", name, part)
        except SplitNotFoundError as error:
            if not args.do_train or part or not data.may_hold_out:
                raise
            absent = name, str(error)
    for part in task.parts if args.do_predict else ():
        raw[f"test {part}".strip()] = task.open("test", part)
    log_inventories(raw.values())  # first what the sources are, then what becomes of them
    if absent is not None:
        name, reason = absent
        raw["training"], raw[name] = hold_out_validation(raw["training"], data.train_val_split, reason)
    limits = {
        "training": data.max_train_samples,
        "validation": data.max_eval_samples,
        "test": data.max_predict_samples,
    }
    return {name: part.subset(limits[name.partition(" ")[0]]) for name, part in raw.items()}


def usable(task: Task, name: str, raw: RawDataset) -> RawDataset:
    """Return the usable samples of a data set; in evaluation a bad sample must not be replaced by another one."""
    if name == "training" or task.skips_bad:
        return raw
    good = raw.without_bad()
    good.on_bad = "raise"
    return good


def write_predictions(path: Path, columns: Mapping[str, Sequence[Any]], what: str = "predictions") -> None:
    """Write predictions, one line per sample, and print the path.

    Args:
        path: Path of a .csv, .tsv or .jsonl file.
        columns: Values of all samples by column name.
        what: What the lines are.
    """
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".jsonl":
        lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
        text = "".join(f"{line}\n" for line in lines)
    else:
        file = io.StringIO()
        layout = {"delimiter": "\t", "lineterminator": "\n"} if path.suffix == ".tsv" else {}
        csv.writer(file, **layout).writerows([list(columns), *rows])
        text = file.getvalue()
    write_text(path, text)
    print(f"{len(rows):,} {what}: {path}")


def prepare_program(args: FinetuningArguments) -> None:
    """Set log level and seed of a program, and check its options early.

    Raises:
        ValueError: If there is nothing to do or the folder is not writable.
    """
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("Nothing to do: give --do_train, --do_eval or --do_predict.")
    check_folder(Path(args.output_dir))
    # Only the first process logs.
    level = logging.INFO if args.process_index == 0 else logging.ERROR
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    # These log a line for every request to the Hub.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    lacking = fewer_than_launched(args.world_size)
    if lacking:
        logger.warning("%s", lacking)
    if args.device.type == "cpu" and (kept := keep_freed_memory()):
        logger.info("%s", kept)
    transformers_logging.set_verbosity(args.get_process_log_level())
    set_seed(args.seed)


def run(trainer: FinetuningTrainer, *, predict: Callable[[], dict[str, float]] | None = None) -> dict[str, float]:
    """Train, evaluate and predict, write results and model card, and upload if requested.

    Args:
        trainer: Trainer with model, data sets and processor.
        predict: Function called after the evaluation, which writes predictions and returns metrics.

    Returns:
        All metrics, as in `all_results.json`.
    """
    args = trainer.args
    if args.push_to_hub:
        trainer.check_license()
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
        # A kill or a full disk may have left no results; the state has them too.
        logged = next((entry for entry in reversed(trainer.state.log_history) if "train_loss" in entry), {})
        stored = {name: value for name, value in logged.items() if name != "step"}
        metrics = read_json(Path(args.output_dir) / "train_results.json") or stored
        trainer.save_metrics("train", metrics)
        return metrics
    checkpoint = resume_point(args)
    check_options(args, _origin(trainer), resumes=checkpoint is not None)
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.keep_average()
    # The upload happens once, together with the card.
    trainer.save_model(_internal_call=True)
    metrics = record(trainer, "train", outcome.metrics)
    # Written last: it marks the run as finished.
    trainer.save_state()
    return metrics


def _origin(trainer: FinetuningTrainer) -> dict[str, Any]:
    """Return the initial weights and the training data of a run, by name."""
    origin = {}
    if "finetuned_from" in trainer.card:
        origin["start"] = trainer.card["finetuned_from"] or "random weights"
    if hasattr(trainer.train_dataset, "raw"):
        found = trainer.train_dataset.raw.fingerprint()
        origin["training data"] = f"{found['records']} samples, {found['names']}"
    return origin


def record(trainer: FinetuningTrainer, name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Print the metrics of "train", "eval" or "test" and add them to the files of the run."""
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


def report_bad_samples(trainer: FinetuningTrainer) -> None:
    """Report the broken samples of every data set on the console and in `bad_samples.json`.

    Raises:
        ValueError: If more than `--max_bad_fraction` of a data set is broken.
    """
    for dataset in trainer.raw_datasets.values():
        # Each process has found those of its own part.
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
