"""Labelled texts and pairs of texts for fine-tuning: sources, scores and tokenizer.

Every source is opened as tables of columns by split: a name on the Hub, single files, or a local folder with files
named by split (`train-00000-of-00001.parquet`, `validation_matched.jsonl`, `dev.tsv`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from d2v_train.data.accounts import account
from d2v_train.data.columns import TableRows
from d2v_train.data.dataset_tables import keep_bars_out_of_logs, open_datasets, open_files, table_of
from d2v_train.data.inventory import Inventory
from d2v_train.data.listing import FolderListing
from d2v_train.data.records import RawDataset
from d2v_train.data.table_files import SUFFIXES, find_tables, format_of, is_saved
from d2v_train.data.tables import SPLIT_NAMES, SourceSettings, column_named_by, concatenate, pick_split
from d2v_train.finetuning.arguments import PARTS
from d2v_train.finetuning.class_labels import no_label
from d2v_train.finetuning.texts.arguments import TextDataArguments
from d2v_train.inputs.tokenizer import check_vocabulary, load_tokenizer


logger = logging.getLogger(__name__)

GLUE = "nyu-mll/glue"
"""Default data set of the tasks of GLUE."""
SPLITS = {
    start + end: split + end
    for start, split in (
        ("train", "train"),
        ("training", "train"),
        ("validation", "validation"),
        ("valid", "validation"),
        ("val", "validation"),
        ("dev", "validation"),
        ("test", "test"),
    )
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
    from datasets import get_dataset_config_names, load_dataset

    files = {args.split_of(part): [Path(args.own_source(part))] for part in PARTS if args.own_source(part)}
    name = args.dataset_name or (None if files or task is None else GLUE)
    if name is None and not files:
        raise ValueError(
            "Name the data: --task_name for a task of GLUE, --dataset_name for a folder or a name on the Hub, or "
            "--train_file, --validation_file and --test_file."
        )
    folder = None if name is None else Path(name).expanduser()
    if folder is not None and folder.is_dir():
        folder = _folder_of(folder, args.dataset_config_name, task)
        files = _files_of(folder) | files
    elif name is not None:
        config = args.dataset_config_name
        if config is None and task in get_dataset_config_names(name, token=token):
            config = task
        keep_bars_out_of_logs()
        splits = open_datasets(load_dataset(name, config, token=token))
        return OpenTexts(splits, name, args, columns, Inventory(name, "a dataset of the Hub", dict.fromkeys(splits)))
    settings = SourceSettings(encoding=args.encoding)
    opened = {}
    for split, paths in files.items():
        paths = [path.expanduser() for path in paths]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"There is no file {missing[0]} for the {split} data.")
        kinds = {path: format_of(path) for path in paths}
        unknown = [path for path, kind in kinds.items() if kind is None]
        if unknown:
            raise ValueError(f"{unknown[0]} cannot be read; supported file types are {', '.join(SUFFIXES)}.")
        if len(set(kinds.values())) > 1:
            raise ValueError(
                f"The {split} data is in files of several types: {', '.join(map(str, paths))}. Keep those of one type."
            )
        opened[split] = open_files({split: [str(path) for path in paths]}, settings)[split]
    return OpenTexts(opened, args.described, args, columns, _inventory(args.described, folder, files))


def _inventory(described: str, folder: Path | None, files: Mapping[str, Sequence[Path]]) -> Inventory:
    """Return the account of some files by split, and of the others in their folder, if that is the source."""
    used = [str(path.expanduser()) for paths in files.values() for path in paths]
    formats = dict.fromkeys(str(format_of(path)) for path in used)
    found = Inventory(described, f"tables of columns ({', '.join(formats)})", dict.fromkeys(files))
    if folder is None:
        found.used = used
        return found
    listing = FolderListing(folder)
    names = [listing.relative(path) for path in used]
    tables = {name for name in listing.names if format_of(name) is not None}
    reasons = dict.fromkeys(tables.difference(names), "a table whose name does not begin with that of a split")
    found = account(described, found.layout, "text", listing, names, found.samples, reasons)
    found.used += [name for name in names if name not in listing.known]
    return found


def _folder_of(folder: Path, config: str | None, task: str | None) -> Path:
    """Return the sub-folder for the configuration or task, or else the folder."""
    inner = next((folder / name for name in (config, task) if name and (folder / name).is_dir()), folder)
    if config and inner.name != config:
        raise ValueError(f"There is no folder {config!r} in {folder}.")
    return inner


def _files_of(inner: Path) -> dict[str, list[Path]]:
    """Return the tables of a folder by split."""
    found: dict[str, list[Path]] = {}
    for path in sorted(inner.iterdir()):
        split = next((split for start, split in SPLITS.items() if re.match(rf"{start}(?![a-z])", path.name)), None)
        if split is not None and path.is_file() and format_of(path) is not None:
            found.setdefault(split, []).append(path)
    if not found and (is_saved(inner) or any((inner / name).is_dir() for name in {"data", *SPLIT_NAMES})):
        tables = find_tables(inner)
        found = {} if tables is None else {name: list(map(Path, files)) for name, files in tables.splits.items()}
    if not found:
        listed = ", ".join(sorted(path.name for path in inner.iterdir())[:10]) or "nothing"
        if any(path.is_dir() for path in inner.iterdir()):
            listed += "; name a folder in it with --task_name or --dataset_config_name"
        raise ValueError(
            f"{inner} has no text files with names that begin with train, validation or test and end in "
            f"{', '.join(SUFFIXES)}; it contains {listed}."
        )
    return found


class OpenTexts:
    """Splits of one source, opened on demand.

    Args:
        splits: Table of each split.
        where: Name of the source in errors.
        args: Options that name the columns.
        columns: Columns of the task, the default.
        inventory: What the source is read as.
    """

    def __init__(
        self,
        splits: Mapping[str, TableRows],
        where: str,
        args: TextDataArguments,
        columns: Sequence[str] | None,
        inventory: Inventory,
    ) -> None:
        self.splits, self.where, self.inventory = splits, where, inventory
        self.columns = SourceSettings(column=args.text_column or columns, label_column=args.label_column)

    @property
    def column_names(self) -> list[str]:
        """Names of all columns."""
        return list(next(iter(self.splits.values())).schema)

    def open(self, split: str) -> RawDataset:
        """Open a split, or several joined by "+".

        Raises:
            SplitNotFoundError: If a split does not exist.
            ColumnNotFoundError, UnclearColumnError: If a column is missing or ambiguous.
        """
        with column_named_by("--text_column"):
            tables = [table_of("text", self.splits, name, self.columns, self.where) for name in split.split("+")]
        table = tables[0] if len(tables) == 1 else concatenate(tables)
        found = [pick_split(name, list(self.splits), self.where) for name in split.split("+")]
        counts = {name: len(part.values) for name, part in zip(found, tables, strict=True)}
        table.inventory = replace(self.inventory, samples=self.inventory.samples | counts)
        return RawDataset("text", table, source=str(self.where), split=split)


def score_target(raw: RawDataset, split: str) -> Callable[[dict[str, Any]], float | None]:
    """Return the function from a record to its score, or `no_label` for data without scores.

    All scores of the test set of STS-B are -1.

    Raises:
        ValueError: If only some scores are missing.
    """
    if raw.labels is None or (raw.labels == -1).all() or np.isnan(raw.labels).all():
        return no_label
    if raw.labels.ndim > 1 or raw.label_names is not None:
        raise ValueError(f"The labels of the {split} data are classes, but the model predicts scores.")
    missing = raw.labels == -1 if raw.labels.dtype.kind == "i" else ~np.isfinite(raw.labels)
    if missing.any() and split.startswith("test"):
        logger.warning("Some scores of the %s data are missing: its texts are predicted, but not compared.", split)
        return no_label
    if missing.any():
        sample = raw.name_of(int(np.flatnonzero(missing)[0]))
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
