"""Fine-tunes data2vec on a task of GLUE, or to classify or score other texts and pairs of texts.

    d2v finetune-glue --model_name_or_path runs/text/final --task_name cola \\
        --output_dir runs/cola --do_train --do_eval
    d2v finetune-glue --model_name_or_path runs/text/final --from_scratch --task_name rte \\
        --dataset_name path/to/glue --output_dir runs/rte_scratch --do_train --do_eval
    accelerate launch --num_processes 4 -m d2v_train.programs.finetune_glue --bf16 --task_name mnli \\
        --model_name_or_path user/data2vec2-text-base --output_dir runs/mnli --do_train --do_eval --do_predict

Several runs in one call, each in its own sub-folder, with a table at the end:

    d2v finetune-glue --model_name_or_path runs/text/final --task_name rte --output_dir runs/rte \\
        --do_train --do_eval --learning_rates 1e-5 2e-5 3e-5 --seeds 1 2 3 4 5

Tasks: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli. Other texts come from --dataset_name (Hub, or a folder with
train and validation files) or --train_file, --validation_file and --test_file (parquet, csv, tsv, json); whole
numbers and names in the label column are classes, other numbers are scores. --do_predict writes `predictions/*.tsv`,
for GLUE in the format of its server. The same command again goes on where it was cut off. Options may also stand in a
YAML file, named first. `--help` lists all of them, those of `TrainingArguments` among them
(--activation_checkpointing, --push_to_hub, --early_stopping_patience ...).

Defaults are those of data2vec 2.0, base; `d2v_train/finetuning/texts/glue.py` says where they are from. All tasks: 10
epochs, Adam (0.9, 0.98), epsilon 1e-6, weight decay 0.1, linear decay to 0, no clipping, texts up to 512 tokens, the
best epoch by the metric of the task. Papers report five seeds. One thing differs: scores are learned as they are, with
the mean of the training scores as first bias (the reference divides those of STS-B by 5). For data2vec 1.0:
--learning_rate 1e-5, except for RTE and STS-B.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.arguments import FinetuningArguments, ModelArguments
from d2v_train.finetuning.class_labels import class_target, no_label, warn_of_untaught
from d2v_train.finetuning.command_line import launch, parse_arguments, with_options_of_file
from d2v_train.finetuning.data import FinetuningCollator, FinetuningDataset
from d2v_train.finetuning.models import load_config, load_model
from d2v_train.finetuning.run import prepare_program, record, run
from d2v_train.finetuning.sweep import sweep
from d2v_train.finetuning.texts.data import TextDataArguments, open_tokenizer, score_target
from d2v_train.finetuning.texts.glue import CLASSES, SCORES, TASKS, GlueTask, decide_task, write_glue_predictions
from d2v_train.finetuning.trainer import FinetuningTrainer
from d2v_train.inputs.text import TextTransform


logger = logging.getLogger("finetune_glue")


@dataclass
class GlueArguments(FinetuningArguments):
    """Training options, with the published settings as defaults; what is `None` follows from the task."""

    task_name: str | None = field(default=None, metadata={"help": f"Task of GLUE: {', '.join(TASKS)}."})
    learning_rates: list[float] | None = field(default=None, metadata={"help": "Several runs, one for each."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Several runs, one for each."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout of blocks and head; None: the model's."})
    learning_rate: float | None = field(default=None, metadata={"help": "Peak; default 2e-5, for STS-B 4e-5."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training texts."})
    per_device_train_batch_size: int | None = field(
        default=None, metadata={"help": "Texts of one process in a batch; default 16 or 32 over all processes."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "The same in evaluation."})
    warmup_steps: float | None = field(default=None, metadata={"help": "Default 0.06 of the run, for QQP 0.25."})
    lr_scheduler_type: str = field(default="linear", metadata={"help": "Schedule after the warm-up."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay of matrices."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Longest gradient; 0 = any."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints that are kept beside the best."})
    logging_steps: float = field(default=50, metadata={"help": "Updates between two lines of the log."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best epoch, not the last one."})

    def __post_init__(self) -> None:
        if self.task_name is not None and self.task_name not in TASKS:
            raise ValueError(f"--task_name is {self.task_name!r}; the tasks are {', '.join(TASKS)}.")
        if self.push_to_hub and (self.learning_rates or self.seeds):
            raise ValueError("--push_to_hub uploads one run. Give it with the learning rate and seed of the best one.")
        if (self.learning_rates or self.seeds) and not self.do_eval:
            raise ValueError("Several runs are compared by their evaluation: give --do_eval.")
        task = TASKS.get(self.task_name, CLASSES)
        if self.learning_rate is None:
            self.learning_rate = task.learning_rate
        if self.warmup_steps is None:
            self.warmup_steps = task.warmup
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = of_one_process(task.batch_size)
        # With texts of the user's own, it is known only when the labels are seen.
        self.takes_main_metric = self.metric_for_best_model is None
        if self.metric_for_best_model is None:
            self.metric_for_best_model = task.main_metric
        if not (self.do_train and self.do_eval):
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()


def of_one_process(batch: int) -> int:
    """The part of a batch that one process gets; known before the processes have met."""
    return max(1, batch // int(os.environ.get("WORLD_SIZE", 1)))


def run_program(argv: list[str]) -> dict[str, Any]:
    """Fine-tune as a command line says, once or for several learning rates and seeds.

    Args:
        argv: its arguments.

    Returns:
        All metrics; of several runs, the summary.
    """
    model_args, data_args, args = parse_arguments(
        ModelArguments, TextDataArguments, GlueArguments, argv=argv, prog="d2v finetune-glue"
    )
    prepare_program(args)
    if args.learning_rates is None and args.seeds is None:
        return finetune(model_args, data_args, args)

    def once(argv: list[str]) -> dict[str, float]:
        return finetune(
            *parse_arguments(ModelArguments, TextDataArguments, GlueArguments, argv=argv, prog="d2v finetune-glue")
        )

    metrics = [args.metric_for_best_model]
    if args.task_name is None and args.takes_main_metric:
        metrics = [CLASSES.main_metric, SCORES.main_metric]
    return sweep(
        once,
        # A file of options may change before the next call; what it says counts, not its name.
        with_options_of_file(argv),
        args.output_dir,
        args.learning_rates or [args.learning_rate],
        args.seeds or [args.seed],
        [f"eval_{name.removeprefix('eval_')}" for name in metrics],
        bool(args.greater_is_better),
    )


def finetune(model_args: ModelArguments, data_args: TextDataArguments, args: GlueArguments) -> dict[str, float]:
    """One run.

    Returns:
        Its metrics.
    """
    prepare_program(args)
    config = load_config(model_args)
    tokenizer = open_tokenizer(model_args, config)
    longest = config.modality_config("text").max_position_embeddings
    tokenizer.model_max_length = longest
    transform = TextTransform(tokenizer, max_length=min(data_args.max_seq_length, longest), train=False)

    texts = data_args.open(args.task_name, TASKS[args.task_name].columns if args.task_name else None, model_args.token)
    raw = {}
    if args.do_train:
        raw["training"] = texts.open("train", data_args.max_train_samples)
    task = decide_task(args.task_name, config, raw.get("training"))
    if args.takes_main_metric:
        args.metric_for_best_model = task.main_metric

    def labelled(name: str, dataset: RawDataset, optional: bool = False) -> FinetuningDataset:
        target = score_target(dataset, name) if task.labels is None else class_target(dataset, task.labels, name)
        if target is no_label and not optional:
            raise ValueError(
                f"The {name} data has no labels. Its columns are {', '.join(texts.column_names)}; name the right one "
                "with --label_column_name."
            )
        return FinetuningDataset(dataset, transform, target, seed=args.seed)

    evaluation, test = {}, {}
    for part in task.parts:
        if args.do_eval:
            name = f"validation {part}".strip()
            raw[name] = texts.open(f"validation_{part}".strip("_"), data_args.max_eval_samples)
            evaluation[part] = labelled(name, raw[name].without_bad())
        if args.do_predict:
            name = f"test {part}".strip()
            raw[name] = texts.open(f"test_{part}".strip("_"), data_args.max_predict_samples)
            test[part] = labelled(name, raw[name].without_bad(), optional=True)

    regression = task.labels is None
    names = ["score"] if regression else task.labels
    config = load_config(
        model_args,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
        problem_type="regression" if regression else "single_label_classification",
        hidden_dropout=args.dropout,
        mlp_dropout=args.dropout,
        attention_dropout=args.dropout,
    )
    model = load_model(AutoModelForSequenceClassification, model_args, config)
    if regression and args.do_train:
        start_at_mean(model, raw["training"])
    trainer = FinetuningTrainer(
        model=model,
        args=args,
        data_collator=FinetuningCollator(config),
        train_dataset=labelled("training", raw["training"]) if args.do_train else None,
        eval_dataset=(evaluation[""] if "" in evaluation else evaluation) or None,
        processing_class=tokenizer,
        compute_metrics=lambda output: task.measure(task.decide(output.predictions), output.label_ids),
        raw_datasets=raw,
        card={
            "tasks": "text-classification",
            "finetuned_from": model_args.finetuned_from,
            "dataset": data_args.name,
            "dataset_args": args.task_name or data_args.dataset_config_name,
        },
    )
    if args.do_train:
        if not regression:
            warn_of_untaught(raw["training"], names)
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        logger.info(
            "%s: %d texts to train on, %s; %d an update, learning rate %g, at most %d tokens a text.",
            args.task_name or data_args.name,
            len(raw["training"]),
            "scores" if regression else f"{len(names)} classes",
            batch,
            args.learning_rate,
            transform.max_length,
        )

    def predict_all() -> dict[str, float]:
        metrics = {}
        for file, (part, dataset) in zip(task.server_files, test.items(), strict=False):
            metrics |= predict(trainer, dataset, raw[f"test {part}".strip()], task, part, file)
        return metrics

    return run(trainer, predict=predict_all)


def start_at_mean(model: Any, training: RawDataset) -> None:
    """Sets the bias of a new head to the mean of the scores, which would take it hundreds of updates to reach."""
    bias = model.classifier.out_proj.bias
    if not bias.any():
        with torch.no_grad():
            bias.fill_(float(training.labels.mean()))


def predict(
    trainer: FinetuningTrainer, dataset: FinetuningDataset, raw: RawDataset, task: GlueTask, part: str, file: str
) -> dict[str, float]:
    """Writes the predictions of a test set; texts that cannot be read get the most common one, or the mean score.

    Returns:
        Metrics, where the test set has labels.
    """
    prefix = f"test_{part}" if part else "test"
    output = trainer.predict(dataset, metric_key_prefix=prefix)
    found = task.decide(output.predictions)
    common = found.mean() if task.labels is None else np.bincount(found).argmax()
    predictions = np.full(len(raw), common, dtype=found.dtype)
    predictions[np.isin(raw.rows, dataset.raw.rows)] = found
    if trainer.is_world_process_zero():
        path = Path(trainer.args.output_dir) / "predictions" / f"{file}.tsv"
        write_glue_predictions(path, raw.rows, predictions, task.labels if task.written else None)
        print(f"{len(raw):,} predictions: {path}")
    if output.label_ids is None:
        return {}
    return record(trainer, prefix, output.metrics)


def main(argv: list[str] | None = None) -> int | str:
    """Run the program as a process, see `launch`."""
    return launch(run_program, argv)


if __name__ == "__main__":
    sys.exit(main())
