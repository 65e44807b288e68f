"""Options for texts."""

from __future__ import annotations

from dataclasses import dataclass

from d2v_train.finetuning.arguments import (
    MULTI_LABEL,
    SINGLE_LABEL,
    DataArguments,
    FinetuningArguments,
    check_one_class_options,
    check_share,
    option,
)
from d2v_train.options.errors import OptionError, at_least, choice


REGRESSION = "regression"
"""Value of `problem_type` for scores."""


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
