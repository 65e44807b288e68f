"""The run that all fine-tuning programs share, and `Task`: what one of them adds to it.

A program parses its options and calls `finetune` with a subclass of `Task`. Opening and holding out data, loading,
resuming, evaluation, predictions, the record, the card and the upload happen here, in the same way for all of them.
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

import torch
from accelerate.utils import gather_object
from transformers import EvalPrediction, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SplitNotFoundError
from d2v_train.finetuning.arguments import DataArguments, FinetuningArguments, ModelArguments
from d2v_train.finetuning.callbacks import check_bad_samples
from d2v_train.finetuning.command_line import check_folder
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset, hold_out_validation
from d2v_train.finetuning.models import load_config, load_model
from d2v_train.finetuning.resume import check_options, is_finished, resume_point
from d2v_train.finetuning.trainer import FinetuningTrainer
from d2v_train.support.atomic import write_json, write_text
from modeling_d2v import Data2VecConfig


logger = logging.getLogger(__name__)


class Task(ABC):
    """What one kind of fine-tuning adds to `finetune`, which calls the methods in the order in which they stand here.

    A data set of the run has the name "training", "validation" or "test"; where there are several to evaluate on and
    to predict, that is followed by one of `parts`, as in "validation matched".

    Args:
        model_args, data_args, args: options of the program.

    Attributes:
        modality: of the inputs.
        auto_class: Auto class of the model.
        hub_task: name of the task on the Hub and of its pipeline.
        trainer_class: class of the trainer.
        parts: names of the data sets to evaluate on and to predict.
        skips_bad: whether samples that cannot be used are met in the evaluation and left out of its metrics, instead
            of being looked for before it.
        config: of the model; at first that of the checkpoint.
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

    def open(self, split: str, part: str = "") -> RawDataset:
        """Open the "train", "validation" or "test" data.

        Raises:
            SplitNotFoundError: there is none.
        """
        return self.data_args.open(split)

    def learn(self, training: RawDataset | None) -> None:
        """Find out what is to be learned, such as the classes; without training data the checkpoint knows it."""
        return None

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        """Return the samples to use of each data set."""
        return raw

    @abstractmethod
    def configuration(self) -> Data2VecConfig:
        """Return the configuration of the model: the checkpoint's with the head and the regularisation of the run."""

    @abstractmethod
    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        """Return the inputs and labels of a data set; a test set may have none."""

    def build_model(self, training: RawDataset | None) -> PreTrainedModel:
        """Return the model, to train on `training`."""
        return load_model(self.auto_class, self.model_args, self.config)

    def card(self) -> dict[str, Any]:
        """Return what the model card says beside results and settings: arguments of `finetuned_card`."""
        return {
            "tasks": self.hub_task,
            "finetuned_from": self.model_args.finetuned_from,
            "dataset": self.data_args.described,
            "dataset_args": self.data_args.dataset_config_name,
        }

    def trainer_options(self) -> dict[str, Any]:
        """Return further arguments of `trainer_class`: the collator, the processor that is saved beside the model."""
        return {"data_collator": FinetuningCollator(self.config)}

    def describe(self, update: int) -> str:
        """Return what is special about the training, for the log, before it starts.

        Args:
            update: samples in an update.
        """
        return ""

    @abstractmethod
    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metrics of an evaluation."""

    def after_evaluation(self, dataset: FinetuningDataset | None) -> None:
        """Write what an evaluation has found; called by the first process, at the end of the run alone."""
        return None

    @abstractmethod
    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        """Write the predictions of a test set; called by the first process.

        Args:
            name: of the data set.
            dataset: what was predicted.
            raw: the same with the samples that cannot be used.
            output: of `Trainer.predict`.
        """


def finetune(
    task_class: type[Task], model_args: ModelArguments, data_args: DataArguments, args: FinetuningArguments, *more: Any
) -> dict[str, float]:
    """Run a task as the options say.

    Args:
        task_class: of the task.
        model_args, data_args, args, more: options, which its constructor takes.

    Returns:
        All metrics, as in `all_results.json`.

    Raises:
        ValueError: for a mistake of the user.
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
        card=task.card(),
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
    """Open what is trained on, evaluated on and predicted; held out of the training data where that is needed.

    Returns:
        Data sets by name.

    Raises:
        SplitNotFoundError: one that was asked for does not exist.
    """
    args, data = task.args, task.data_args
    raw = {"training": task.open("train")} if args.do_train else {}
    for part in task.parts if args.do_eval else ():
        name = f"validation {part}".strip()
        try:
            raw[name] = task.open("validation", part)
        except SplitNotFoundError as error:
            if not args.do_train or part or not data.may_hold_out:
                raise
            raw["training"], raw[name] = hold_out_validation(raw["training"], data.train_val_split, str(error))
    for part in task.parts if args.do_predict else ():
        raw[f"test {part}".strip()] = task.open("test", part)
    limits = {
        "training": data.max_train_samples,
        "validation": data.max_eval_samples,
        "test": data.max_predict_samples,
    }
    return {name: part.subset(limits[name.partition(" ")[0]]) for name, part in raw.items()}


def usable(task: Task, name: str, raw: RawDataset) -> RawDataset:
    """Return the samples of a data set that can be used; in evaluation no other sample may stand in for a bad one."""
    if name == "training" or task.skips_bad:
        return raw
    good = raw.without_bad()
    good.on_bad = "raise"
    return good


def write_predictions(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write predictions, one line for each sample, and print where they are.

    Args:
        path: of a .csv, .tsv or .jsonl file.
        columns: values of all samples by name.
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
    print(f"{len(rows):,} predictions: {path}")


def prepare_program(args: FinetuningArguments) -> None:
    """Set the log level and the seed of a program, and find mistakes that must not take minutes to find.

    Raises:
        ValueError: there is nothing to do, or nowhere to write.
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


def run(trainer: FinetuningTrainer, *, predict: Callable[[], dict[str, float]] | None = None) -> dict[str, float]:
    """Train and evaluate as --do_train and --do_eval say, write the record and the card, upload if asked.

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
    """Return what a run starts from and learns from, as far as the program says it."""
    origin = {}
    if "finetuned_from" in trainer.card:
        origin["start"] = trainer.card["finetuned_from"] or "random weights"
    if hasattr(trainer.train_dataset, "raw"):
        found = trainer.train_dataset.raw.fingerprint()
        origin["training data"] = f"{found['records']} samples, {found['names']}"
    return origin


def record(trainer: FinetuningTrainer, name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Print metrics of "train", "eval" or "test", and add them to the files of the run."""
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


def report_bad_samples(trainer: FinetuningTrainer) -> None:
    """Name the broken samples of every data set on the screen and in `bad_samples.json`.

    Raises:
        ValueError: more than `--max_bad_fraction` of a data set is broken.
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
