"""Options and steps that every fine-tuning program shares.

A program defines its data options, a subclass of `FinetuningArguments` with the published settings of its task as
defaults, and a `FinetuningTrainer`; parsing, loading, resuming, evaluation, the record and the upload happen here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import (
    set_seed,
)
from transformers.utils import logging as transformers_logging

from d2v_train.finetuning.arguments import FinetuningArguments
from d2v_train.finetuning.callbacks import check_bad_samples
from d2v_train.finetuning.command_line import check_folder
from d2v_train.finetuning.resume import check_options, is_finished, resume_point
from d2v_train.finetuning.trainer import FinetuningTrainer
from d2v_train.support.atomic import write_json


logger = logging.getLogger(__name__)


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
