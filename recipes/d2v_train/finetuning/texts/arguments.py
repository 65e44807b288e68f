"""Options for texts: data and settings of the training."""

from __future__ import annotations

from dataclasses import dataclass

from d2v_train.finetuning.arguments import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    DataArguments,
    FinetuningArguments,
    check_one_class_options,
    check_share,
    option,
    with_defaults,
)
from d2v_train.finetuning.texts.glue import CLASSES, TASKS, of_one_process
from d2v_train.options.errors import OptionError, at_least, choice, share


@dataclass
class TextDataArguments(DataArguments):
    """Texts for training, evaluation and prediction."""

    place = "file"

    train_file: str | None = option(None, "Training data as parquet, csv, tsv or json, if not in dataset_name.")
    validation_file: str | None = option(None, "File of the data to evaluate on.")
    test_file: str | None = option(None, "File of the data to predict.")
    text_column: list[str] | None = option(None, "Column of the text, or two for pairs; default: found by its name.")
    label_column: str | None = option(None, "Column of classes or scores; default: found by its name.")
    problem_type: str | None = option(
        None,
        f"{SINGLE_LABEL}, {MULTI_LABEL} (a text has any number of classes) or {REGRESSION}; default: by the labels.",
    )
    threshold: float = option(0.5, "Probability from which a class is assigned if there may be several.")
    encoding: str = option("utf-8", "Encoding of csv, tsv and json files, such as latin-1.")
    max_seq_length: int = option(512, "Number of tokens to which texts and pairs are truncated.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--max_seq_length", self.max_seq_length, 3)
        if self.problem_type is not None:
            choice("--problem_type", self.problem_type, (SINGLE_LABEL, MULTI_LABEL, REGRESSION))
        check_share("threshold", self.threshold)
        if self.problem_type in (SINGLE_LABEL, REGRESSION) and self.threshold != 0.5:
            raise OptionError(f"--threshold is {self.threshold}, but it has no effect with {self.problem_type}.")
        if self.text_column is not None and len(self.text_column) > 2:
            raise OptionError(f"--text_column names {len(self.text_column)} columns. It takes one, or two for pairs.")

    def check_run(self, args: FinetuningArguments) -> None:
        task = getattr(args, "task_name", None)
        if task is not None and self.problem_type is not None:
            raise OptionError(f"--problem_type is {self.problem_type}, but {task} defines its own. Leave it out.")
        if self.problem_type == MULTI_LABEL:
            check_one_class_options(args)
        # A task of GLUE has a data set of its own.
        if task is None or self.described is not None:
            super().check_run(args)


@with_defaults(
    num_train_epochs=10.0,
    per_device_eval_batch_size=64,
    lr_scheduler_type="linear",
    adam_beta2=0.98,
    adam_epsilon=1e-6,
    weight_decay=0.1,
    max_grad_norm=0.0,
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=1,
    logging_steps=50,
    load_best_model_at_end=True,
)
class GlueArguments(FinetuningArguments):
    """Training options with the published settings as defaults; `None` is replaced by the setting of the task."""

    task_name: str | None = option(None, f"Task of GLUE: {', '.join(TASKS)}.")
    learning_rates: list[float] | None = option(None, "Learning rates of several runs.")
    seeds: list[int] | None = option(None, "Seeds of several runs.")
    dropout: float | None = option(None, "Dropout of blocks and head; default: the checkpoint's.")
    learning_rate: float | None = option(None, "Peak learning rate; default: 2e-5, for STS-B 4e-5.")
    per_device_train_batch_size: int | None = option(
        None, "Batch size per process; default: 16 or 32 over all processes."
    )
    warmup_steps: float | None = option(None, "Warm-up; default: 0.06 of the run, for QQP 0.25.")

    def __post_init__(self) -> None:
        if self.task_name is not None and self.task_name not in TASKS:
            raise ValueError(f"--task_name is {self.task_name!r}; the tasks are {', '.join(TASKS)}.")
        if self.push_to_hub and (self.learning_rates or self.seeds):
            raise ValueError("--push_to_hub uploads a single run. Use it with the best learning rate and seed.")
        if (self.learning_rates or self.seeds) and not self.do_eval:
            raise ValueError("Several runs are compared by their evaluation: add --do_eval.")
        share("--dropout", self.dropout, below=True)
        for name in ("learning_rates", "seeds"):
            for value in getattr(self, name) or ():
                at_least(f"--{name}", value, 0)
        task = TASKS.get(self.task_name, CLASSES)
        if self.learning_rate is None:
            self.learning_rate = task.learning_rate
        if self.warmup_steps is None:
            self.warmup_steps = task.warmup
        if self.per_device_train_batch_size is None:
            self.per_device_train_batch_size = of_one_process(task.batch_size)
        self.main_metric = task.main_metric
        if not (self.do_train and self.do_eval):
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()
