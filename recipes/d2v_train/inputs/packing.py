"""Documents joined and cut into blocks of equal length, so that no token of a text batch is padding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.utils import WeakFileLock
from torch.utils.data import Dataset

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport, keep_report, repeat_report
from d2v_train.support.atomic import write_file


DOCUMENTS_AT_ONCE = 1000


class PackedTextDataset(Dataset):
    """Blocks <s> ... </s> of exactly `block_size` tokens, cut from all documents one after another.

    Documents are separated by </s>. Everything is tokenised once, in batches, on construction. Bad documents are left
    out and counted in `bad`. The rest after the last whole block is dropped; without a whole block, the only block is
    shorter.

    Args:
        dataset: Documents.
        tokenizer: Tokenizer with `bos_token_id` and `eos_token_id`.
        block_size: Tokens per block, the two special ones included.
        cache_dir: Folder for the token file of this combination of documents and tokenizer, which later runs
            memory-map; None keeps the tokens in memory, or those of a stream in the cache of the `datasets` library.
        report: Receives the bad documents and notes; None logs bad ones instead.

    Attributes:
        tokens: (total,) int32, all documents, each followed by </s>.

    Raises:
        ValueError: If `block_size` is below 3, or no document is usable.
    """

    modality = "text"
    label_names = None
    labels = None
    groups = None

    def __init__(
        self,
        dataset: RawDataset,
        tokenizer: Any,
        block_size: int,
        cache_dir: str | Path | None = None,
        report: DataReport | None = None,
    ):
        if block_size < 3:
            raise ValueError(f"Blocks of {block_size} tokens have no room for text; use at least 3.")
        self.block_size = block_size
        self.bad = dataset.bad
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.tokens = _tokens_of(dataset, tokenizer, cache_dir, report)
        self._body = block_size - 2

    def __len__(self) -> int:
        return max(1, len(self.tokens) // self._body)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(index)

    def read(self, index: int, report: DataReport | None = None, drawn: bool = True) -> dict[str, Any]:
        """Return {"id": index, "input_ids": int64 (block_size,), "label": None, "group": None}.

        The documents were read and reported on construction: neither `report` nor `drawn` is used.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no block {index} in a dataset of {len(self)}.")
        index = int(index) % len(self)
        body = np.asarray(self.tokens[index * self._body : (index + 1) * self._body], dtype=np.int64)
        ids = np.concatenate([[self.bos], body, [self.eos]])
        return {"id": index, "input_ids": ids, "label": None, "group": None}


def _good_texts(dataset: RawDataset, report: DataReport | None) -> Iterator[str]:
    for index in range(len(dataset)):
        try:
            record = dataset.load(index, report)
        except BadSample:
            continue
        yield record["text"] if "text_pair" not in record else f"{record['text']}\n{record['text_pair']}"


def _tokens_of(
    dataset: RawDataset, tokenizer: Any, cache_dir: str | Path | None, report: DataReport | None
) -> np.ndarray:
    """Return all token ids, each document followed by </s>."""
    rules = tokenizer.backend_tokenizer.to_str().encode()
    met = DataReport()  # while the file is written
    if dataset.table.values.is_stream:
        # Too large for memory, and to be read twice: the identity of the files stands for that of the documents.
        digest = hashlib.blake2b(rules + dataset.rows.astype("<i8").tobytes(), digest_size=16)
        digest.update(dataset.table.values.identity.encode("utf-8", "surrogateescape"))
        documents: Iterable[str] = _good_texts(dataset, met)
        folder = _default_folder() if cache_dir is None else Path(cache_dir)
    else:
        documents = list(_good_texts(dataset, report))
        if cache_dir is None:
            return _concatenated(documents, tokenizer, dataset)
        digest = hashlib.blake2b(rules, digest_size=16)
        for document in documents:
            digest.update(hashlib.blake2b(document.encode(), digest_size=16).digest())
        folder = Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tokens-{digest.hexdigest()}.int32"
    # One process of a machine tokenises, the others wait for its file.
    with WeakFileLock(path.with_suffix(".lock")):
        if not path.is_file():
            with write_file(path) as file:
                for ids in _tokenise(documents, tokenizer):
                    ids.tofile(file)
                if not file.tell():
                    _raise_unusable(dataset)
                # Every run that uses these tokens reports the bad documents.
                keep_report(met, path.with_suffix(".json"))
    repeat_report(path.with_suffix(".json"), dataset, report)
    return np.memmap(path, dtype=np.int32, mode="r")


def _concatenated(documents: list[str], tokenizer: Any, dataset: RawDataset) -> np.ndarray:
    parts = list(_tokenise(documents, tokenizer))
    if not parts:
        _raise_unusable(dataset)
    return np.concatenate(parts)


def _raise_unusable(dataset: RawDataset) -> None:
    raise ValueError(f"None of the {len(dataset)} documents can be used. {dataset.bad.report()}")


def _default_folder() -> Path:
    from datasets.config import HF_DATASETS_CACHE

    return Path(HF_DATASETS_CACHE) / "data2vec_tokens"


def _tokenise(documents: Iterable[str], tokenizer: Any) -> Iterator[np.ndarray]:
    """Yield the token ids of each document followed by </s>, int32."""
    rest = iter(documents)
    while batch := list(islice(rest, DOCUMENTS_AT_ONCE)):
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            yield np.array([*ids, tokenizer.eos_token_id], dtype=np.int32)
