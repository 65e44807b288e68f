"""Labelled texts and pairs of texts for fine-tuning: sources, scores and tokenizer.

Every source is opened as a `datasets.DatasetDict`: a name on the Hub, single files, or a local folder with files named
by split (`train-00000-of-00001.parquet`, `validation_matched.jsonl`, `dev.tsv`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.dataset_tables import table_of
from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SourceSettings, column_named_by, concatenate
from d2v_train.finetuning.arguments import PARTS
from d2v_train.finetuning.class_labels import no_label
from d2v_train.finetuning.texts.arguments import TextDataArguments
from d2v_train.inputs.tokenizer import check_vocabulary, load_tokenizer


GLUE = "nyu-mll/glue"
"""Default data set of the tasks of GLUE."""
READERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
SPLITS = {
    start + end: split + end
    for start, split in (("train", "train"), ("validation", "validation"), ("dev", "validation"), ("test", "test"))
    for end in ("_matched", "_mismatched", "")
}
"""Split by prefix of a file name; a longer prefix comes before a shorter one that it begins with."""


def open_texts(
    args: TextDataArguments, task: str | None, columns: Sequence[str] | None, token: str | None = None
) -> OpenTexts:
    """Open all splits.

    Args:
        args: Options of the data.
        task: Name of the task of GLUE, None for other data.
        columns: Columns of the task.
        token: Access token of the Hub.

    Raises:
        ValueError: If no source is named or a file cannot be read.
        FileNotFoundError: If a file does not exist.
    """
    from datasets import DatasetDict, get_dataset_config_names, load_dataset
    from datasets.exceptions import DatasetGenerationError

    files = {args.split_of(part): [Path(args.own_source(part))] for part in PARTS if args.own_source(part)}
    name = args.dataset_name or (None if files or task is None else GLUE)
    if name is None and not files:
        raise ValueError(
            "Name the data: --task_name for a task of GLUE, --dataset_name for a folder or a name on the Hub, or "
            "--train_file, --validation_file and --test_file."
        )
    folder = None if name is None else Path(name).expanduser()
    if folder is not None and folder.is_dir():
        files = _files_of(folder, args.dataset_config_name, task) | files
        folder = folder.resolve()
    elif name is not None:
        config = args.dataset_config_name
        if config is None and task in get_dataset_config_names(name, token=token):
            config = task
        return OpenTexts(load_dataset(name, config, token=token), name, args, columns)
    parts = {}
    for split, paths in files.items():
        paths = [path.expanduser() for path in paths]
        suffix = paths[0].suffix.lower()
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"There is no file {missing[0]} for the {split} data.")
        if suffix not in READERS:
            raise ValueError(f"{paths[0]} cannot be read; supported file types are {', '.join(READERS)}.")
        options = {"delimiter": "\t"} if suffix == ".tsv" else {}
        try:
            parts[split] = load_dataset(
                READERS[suffix], data_files={"train": [str(path) for path in paths]}, **options
            )["train"]
        except (DatasetGenerationError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ValueError(f"{paths[0]} cannot be read as {READERS[suffix]}: {reason}") from error
    return OpenTexts(DatasetDict(parts), args.described, args, columns)


def _files_of(folder: Path, config: str | None, task: str | None) -> dict[str, list[Path]]:
    """Return the files by split of a folder, or of its sub-folder for the configuration or task."""
    inner = next((folder / name for name in (config, task) if name and (folder / name).is_dir()), folder)
    if config and inner.name != config:
        raise ValueError(f"There is no folder {config!r} in {folder}.")
    found: dict[str, list[Path]] = {}
    for path in sorted(inner.iterdir()):
        split = next((split for start, split in SPLITS.items() if path.name.startswith(start)), None)
        if split is not None and path.suffix.lower() in READERS:
            found.setdefault(split, []).append(path)
    if not found:
        listed = ", ".join(sorted(path.name for path in inner.iterdir())[:10]) or "nothing"
        if any(path.is_dir() for path in inner.iterdir()):
            listed += "; name a folder in it with --task_name or --dataset_config_name"
        raise ValueError(
            f"{inner} has no text files with names that begin with train, validation or test and end in "
            f"{', '.join(READERS)}; it contains {listed}."
        )
    return found


class OpenTexts:
    """Splits of one source, opened on demand.

    Args:
        splits: The splits, a `datasets.DatasetDict`.
        where: Name of the source in errors.
        args: Options that name the columns.
        columns: Columns of the task, the default.
    """

    def __init__(self, splits: Any, where: str, args: TextDataArguments, columns: Sequence[str] | None) -> None:
        self.splits, self.where = splits, where
        self.columns = SourceSettings(column=args.text_column or columns, label_column=args.label_column)

    @property
    def column_names(self) -> list[str]:
        """Names of all columns."""
        return list(next(iter(self.splits.values())).features)

    def open(self, split: str) -> RawDataset:
        """Open a split, or several joined by "+".

        Raises:
            SplitNotFoundError: If a split does not exist.
            ColumnNotFoundError, UnclearColumnError: If a column is missing or ambiguous.
        """
        with column_named_by("--text_column"):
            tables = [table_of("text", self.splits, name, self.columns, self.where) for name in split.split("+")]
        return RawDataset("text", tables[0] if len(tables) == 1 else concatenate(tables))


def score_target(raw: RawDataset, split: str) -> Callable[[dict[str, Any]], float | None]:
    """Return the function from a record to its score, or `no_label` for data without scores.

    All scores of the test set of STS-B are -1.

    Raises:
        ValueError: If only some scores are missing.
    """
    if raw.labels is None or (raw.labels == -1).all():
        return no_label
    if not np.isfinite(raw.labels).all():
        sample = raw.name_of(int(np.flatnonzero(~np.isfinite(raw.labels))[0]))
        raise ValueError(f"The score of {sample} of the {split} data is missing.")
    return score


def score(record: dict[str, Any]) -> float:
    """Return the label of a record as a number."""
    return float(record["label"])


def open_tokenizer(model_args: Any, config: Any) -> Any:
    """Load the tokenizer of --tokenizer_name or of the checkpoint.

    Raises:
        ValueError: If there is none or it has more tokens than the model.
    """
    name = model_args.tokenizer_name or model_args.model_name_or_path or model_args.config_name
    try:
        tokenizer = load_tokenizer(name, **model_args.hub_options)
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} has no usable tokenizer. Name one with --tokenizer_name. ({reason})") from error
    check_vocabulary(tokenizer, config.modality_config("text").vocab_size, "by --tokenizer_name")
    return tokenizer
