"""Recordings for fine-tuning: where they come from, how long they are, which of them are used.

Lengths come from the headers of the files, so that nothing is decoded before it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from recipes.common.atomic import write_json
from recipes.common.datasets import RawDataset, open_dataset
from recipes.common.option_errors import at_least
from recipes.common.sample_order import stable_seed
from recipes.common.tables import SplitNotFoundError, column_named_by
from recipes.common.turns import sorted_stretch


logger = logging.getLogger(__name__)

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


class Selection:
    """Samples of a data set that are used, and the reasons why others are not.

    Args:
        raw: the data set.
        name: what to call it in messages.
    """

    def __init__(self, raw: RawDataset, name: str) -> None:
        self.raw, self.name = raw, name
        self.kept = np.ones(len(raw), dtype=bool)
        self.left_out: dict[str, np.ndarray] = {}

    def leave_out(self, reason: str, which: np.ndarray) -> None:
        """Leaves out what is true in `which` (N,) and was not left out before."""
        new = which & self.kept
        if new.any():
            self.left_out[reason] = np.flatnonzero(new)
            self.kept &= ~new

    @property
    def indices(self) -> np.ndarray:
        """Places of the samples that are used.

        Raises:
            ValueError: if there are none.
        """
        if not self.kept.any():
            raise ValueError(f"No sample of the {self.name} data is left. {self.report()}")
        return np.flatnonzero(self.kept)

    def names(self, reason: str, limit: int | None = None) -> list[str]:
        """Names of the samples that were left out for a reason."""
        return [self.raw.name_of(int(index)) for index in self.left_out[reason][:limit]]

    def report(self) -> str:
        """What is used and what is not, with the first names of each kind."""
        lines = [f"{self.name} data: {int(self.kept.sum()):,} of {len(self.raw):,} recordings are used."]
        for reason, indices in self.left_out.items():
            more = ", ..." if len(indices) > SHOWN_NAMES else ""
            lines.append(f"  {reason}: {len(indices):,} ({', '.join(self.names(reason, SHOWN_NAMES))}{more})")
        return "\n".join(lines)


def report_selections(selections: Sequence[Selection], args: Any) -> None:
    """Prints what is used, and names all that is not in `left_out.json` in the folder of the run."""
    if args.process_index != 0:
        return
    print("\n".join(part.report() for part in selections))
    listed = {part.name: {reason: part.names(reason) for reason in part.left_out} for part in selections}
    if any(listed.values()):
        write_json(Path(args.output_dir) / "left_out.json", listed)


class LengthSampler(Sampler):
    """Random order in which the samples of an update are about equally long, a function of seed and epoch.

    Args:
        lengths: length of each sample; NaN counts as 0.
        batch_size: samples of an update, over all processes and accumulated batches. Within it they ascend by length,
            so that each micro-batch is even too.
        seed: of the order.
        epoch: tells the epoch, counted from 0.
        stretch: updates whose samples are sorted together; more of them pad less and mix less.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, seed: int, epoch: Callable[[], int], stretch: int = 50
    ) -> None:
        self.lengths = np.nan_to_num(np.asarray(lengths, dtype=np.float64))
        self.batch_size, self.seed, self.epoch, self.stretch = batch_size, seed, epoch, stretch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(stable_seed(self.seed, "order by length", self.epoch()))
        order = rng.permutation(len(self.lengths))
        # Batches are cut by counting: one that is not full can only be the last.
        full = len(order) // self.batch_size
        batches, last = np.split(order, [full * self.batch_size])
        # At least four stretches, or a small data set would be batched in the same way in every epoch.
        size = self.batch_size * max(1, min(self.stretch, full // 4))
        for start in range(0, len(batches), size):
            part = batches[start : start + size]
            turns = sorted_stretch(self.lengths[part], len(part) // self.batch_size, self.batch_size, rng)
            yield from part[np.concatenate(turns)].tolist()
        yield from last[np.argsort(self.lengths[last], kind="stable")].tolist()
