"""Options for texts."""

from __future__ import annotations

from dataclasses import dataclass

from d2v_train.finetuning.arguments import DataArguments, option
from d2v_train.options.errors import at_least


@dataclass
class TextDataArguments(DataArguments):
    """Texts for training, evaluation and prediction."""

    place = "file"

    train_file: str | None = option(None, "Training data as parquet, csv, tsv or json, if not in dataset_name.")
    validation_file: str | None = option(None, "File of the data to evaluate on.")
    test_file: str | None = option(None, "File of the data to predict.")
    text_column: list[str] | None = option(None, "Column of the text, or two for pairs; default: found by its name.")
    label_column: str | None = option(None, "Column of classes or scores; default: found by its name.")
    encoding: str = option("utf-8", "Encoding of csv, tsv and json files, such as latin-1.")
    max_seq_length: int = option(512, "Number of tokens to which texts and pairs are truncated.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--max_seq_length", self.max_seq_length, 3)
