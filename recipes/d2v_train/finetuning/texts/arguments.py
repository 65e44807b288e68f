"""Options for texts: which ones are used."""

from __future__ import annotations

from dataclasses import dataclass

from d2v_train.finetuning.arguments import DataArguments, option
from d2v_train.options.errors import at_least


@dataclass
class TextDataArguments(DataArguments):
    """Which texts to train on, to evaluate on and to predict."""

    place = "file"

    train_file: str | None = option(None, "Parquet, csv, tsv or json, where it is not in dataset_name.")
    validation_file: str | None = option(None, "The same of the data to evaluate on.")
    test_file: str | None = option(None, "The same of the data to predict.")
    text_column: list[str] | None = option(None, "Column of the text, or two of a pair; default: a usual name.")
    label_column: str | None = option(None, "Column of classes or scores; default: a usual name.")
    max_seq_length: int = option(512, "Tokens after which a text, or a pair, is cut.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--max_seq_length", self.max_seq_length, 3)
