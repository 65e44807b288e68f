"""Recordings for fine-tuning: where they come from, how long they are, which of them are used.

Lengths come from the headers of the files, so that nothing is decoded before it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from d2v_train.data.records import RawDataset, open_dataset
from d2v_train.data.tables import SplitNotFoundError, column_named_by
from d2v_train.options.errors import at_least


SHOWN_NAMES = 5
"""Names that are printed of each kind of sample that is left out."""


@dataclass
class SpeechDataArguments:
    """Which recordings to train on and to evaluate on."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Folder, parquet file, or name on the Hub; both splits come from it."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of a data set on the Hub."})
    train_dir: str | None = field(default=None, metadata={"help": "Training data, where it is not in dataset_name."})
    validation_dir: str | None = field(
        default=None, metadata={"help": "Evaluation data, where it is not in dataset_name."}
    )
    test_dir: str | None = field(default=None, metadata={"help": "Data for --do_predict, likewise."})
    train_split_name: str = field(default="train", metadata={"help": "Split, or several as in train.100+train.360."})
    eval_split_name: str = field(default="validation", metadata={"help": "Split to evaluate on."})
    test_split_name: str = field(default="test", metadata={"help": "Split for --do_predict."})
    audio_column_name: str | None = field(default=None, metadata={"help": "Column of the audio; default: found."})
    group_column: str | None = field(default=None, metadata={"help": "Column of the speaker; default: found."})
    exclude_groups: list[str] | None = field(
        default=None, metadata={"help": "Speakers (or other groups) to leave out of training."}
    )
    only_groups: list[str] | None = field(
        default=None, metadata={"help": "Speakers (or other groups) to evaluate on, and no others."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many, drawn at random."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many, drawn at random."})

    def __post_init__(self) -> None:
        if not any((self.dataset_name, self.train_dir, self.validation_dir, self.test_dir)):
            raise ValueError("Name the data with --dataset_name, or with --train_dir and --validation_dir.")
        for name in ("max_train_samples", "max_eval_samples"):
            at_least(f"--{name}", getattr(self, name), 1)

    @property
    def described(self) -> str:
        """Name of the data for people."""
        return self.dataset_name or self.train_dir or self.validation_dir or self.test_dir

    def open(self, part: str, **options: Any) -> RawDataset:
        """Opens "train", "validation" or "test".

        Args:
            part: which one. Only training data may have bad samples replaced by others.
            options: arguments of `open_dataset`.
        """
        split = {"train": self.train_split_name, "validation": self.eval_split_name, "test": self.test_split_name}
        own = getattr(self, f"{part}_dir")
        source = own or self.dataset_name
        if source is None:
            raise ValueError(f"There is no {part} data: name it with --{part}_dir or --dataset_name.")
        if own is None and self.dataset_config_name:
            source = f"{source}:{self.dataset_config_name}"
        options = {
            "column": self.audio_column_name,
            "group_column": self.group_column,
            "exclude_groups": self.exclude_groups if part == "train" else None,
            "only_groups": None if part == "train" else self.only_groups,
            "max_samples": self.max_train_samples if part == "train" else self.max_eval_samples,
            "on_bad": "substitute" if part == "train" else "raise",
            **options,
        }
        with column_named_by("--audio_column_name"):
            try:
                return open_dataset("audio", source, split[part], **options)
            except SplitNotFoundError:
                if own is None or part == "train":
                    raise
                # A folder of its own needs no name for the only split in it.
                return open_dataset("audio", source, "train", **options)
