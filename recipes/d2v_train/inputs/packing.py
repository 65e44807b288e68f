"""Documents joined and cut into blocks of equal length, so that no token of a text batch is padding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from huggingface_hub.utils import WeakFileLock
from torch.utils.data import Dataset

from d2v_train.data.bad_samples import BadSample
from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport, keep_report, repeat_report
from d2v_train.inputs.byte_tokens import byte_ids, reads_bytes, tokenizer_rules
from d2v_train.inputs.long_texts import cut_text
from d2v_train.support.atomic import write_file


DOCUMENTS_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 2**21
"""Size of a batch of documents that is tokenised at once; a tokenizer needs about 150 bytes per character."""


class PackedTextDataset(Dataset):
    """Blocks <s> ... </s> of exactly `block_size` tokens, cut from all documents one after another.

    Documents are separated by </s>; the parts of a long one are joined again. Everything is tokenised once, in batches
    of limited size, on construction. Bad documents are left
    out and counted in `bad`. The rest after the last whole block is dropped; without a whole block, the only block is
    shorter.

    Args:
        dataset: Documents.
        tokenizer: Tokenizer with `eos_token_id`, and `bos_token_id` unless it is one of bytes.
        block_size: Tokens per block, the special ones at its ends included.
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
        self.special = 1 if self.bos is None else 2
        self._body = block_size - self.special

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
        ids = np.concatenate([[] if self.bos is None else [self.bos], body, [self.eos]]).astype(np.int64)
        return {"id": index, "input_ids": ids, "label": None, "group": None}


def _good_texts(dataset: RawDataset, report: DataReport | None) -> Iterator[tuple[str, bool]]:
    """Yield each good text, and whether it ends a document, which it does unless the next one is its next part."""
    held: str | None = None
    for index in range(len(dataset)):
        try:
            record = dataset.load(index, report)
        except BadSample:
            if held is not None:
                yield held, True
            held = None
            continue
        text = record["text"] if "text_pair" not in record else f"{record['text']}\n{record['text_pair']}"
        joint = dataset.joint(index)
        if held is not None:
            yield held, joint is None
            text = text if joint is None else joint + text
        held = text
    if held is not None:
        yield held, True


def _tokens_of(
    dataset: RawDataset, tokenizer: Any, cache_dir: str | Path | None, report: DataReport | None
) -> np.ndarray:
    """Return all token ids, each document followed by </s>."""
    rules = tokenizer_rules(tokenizer).encode()
    met = DataReport()  # while the file is written
    if dataset.table.values.is_stream:
        # Too large to be read twice: the identity of the files stands for that of the documents.
        digest = hashlib.blake2b(rules + dataset.rows.astype("<i8").tobytes(), digest_size=16)
        digest.update(dataset.table.values.identity.encode("utf-8", "surrogateescape"))
        texts = _good_texts(dataset, met)
        folder = _default_folder() if cache_dir is None else Path(cache_dir)
    elif cache_dir is None:
        parts = list(_tokenise(_good_texts(dataset, report), tokenizer))
        return np.concatenate(parts) if parts else _raise_unusable(dataset)
    else:
        digest = hashlib.blake2b(rules, digest_size=16)
        for text, is_end in _good_texts(dataset, report):
            digest.update(hashlib.blake2b(text.encode(), digest_size=16).digest())
            digest.update(b"" if is_end else b"continued")
        texts = _good_texts(dataset, DataReport())  # read twice rather than kept, and reported once
        folder = Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"tokens-{digest.hexdigest()}.int32"
    # One process of a machine tokenises, the others wait for its file.
    with WeakFileLock(path.with_suffix(".lock")):
        if not path.is_file():
            with write_file(path) as file:
                for ids in _tokenise(texts, tokenizer):
                    ids.tofile(file)
                if not file.tell():
                    _raise_unusable(dataset)
                # Every run that uses these tokens reports the bad documents.
                keep_report(met, path.with_suffix(".json"))
    repeat_report(path.with_suffix(".json"), dataset, report)
    return np.memmap(path, dtype=np.int32, mode="r")


def _raise_unusable(dataset: RawDataset) -> NoReturn:
    raise ValueError(f"None of the {len(dataset)} documents can be used. {dataset.bad.report()}")


def _default_folder() -> Path:
    from datasets.config import HF_DATASETS_CACHE

    return Path(HF_DATASETS_CACHE) / "data2vec_tokens"


def _tokenise(texts: Iterable[tuple[str, bool]], tokenizer: Any) -> Iterator[np.ndarray]:
    """Yield the token ids of several texts, int32, with </s> after those that end a document."""
    for batch in _batches(texts):
        pieces = [piece for piece, _ in batch]
        ends = [[tokenizer.eos_token_id] if is_end else [] for _, is_end in batch]
        if reads_bytes(tokenizer):
            parts = [part for ids, end in zip(byte_ids(pieces), ends, strict=True) for part in (ids, end)]
            yield np.concatenate(parts).astype(np.int32)
            continue
        encoded = tokenizer(pieces, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        yield np.array([token for ids, end in zip(encoded, ends, strict=True) for token in (*ids, *end)], np.int32)


def _batches(texts: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    """Yield pieces of texts in batches of limited size, each with whether it ends a document."""
    batch: list[tuple[str, bool]] = []
    size = 0
    for text, is_end in texts:
        *pieces, last = cut_text(text)
        for piece, ends in [*((piece, False) for piece in pieces), (last, is_end)]:
            batch.append((piece, ends))
            size += len(piece)
            if len(batch) == DOCUMENTS_AT_ONCE or size >= CHARACTERS_AT_ONCE:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch
