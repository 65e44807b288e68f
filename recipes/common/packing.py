"""Documents joined and cut into blocks of equal length, so that no token of a text batch is padding."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .datasets import RawDataset
from .decoding import BadSample


__all__ = ["PackedTextDataset"]

logger = logging.getLogger(__name__)

DOCUMENTS_AT_ONCE = 1000


class PackedTextDataset(Dataset):
    """Blocks <s> ... </s> of exactly `block_size` tokens, cut from all documents one after another.

    Documents are separated by </s>. Everything is tokenised once, in batches, when the data set is made. Bad documents
    are left out and counted in `bad`. What remains after the last whole block is dropped, unless it is all there is:
    then the only block is shorter.

    Args:
        dataset: Documents.
        tokenizer: With `bos_token_id` and `eos_token_id`.
        block_size: Tokens per block, the two special ones included.
        cache_dir: Folder for the token file of this combination of documents and tokenizer, read by later runs
            without being loaded into memory; None keeps the tokens in memory.

    Attributes:
        tokens: (total,) int32, all documents, each followed by </s>.

    Raises:
        ValueError: If `block_size` is below 3, or no document is usable.
    """

    modality = "text"
    label_names = None
    labels = None
    groups = None

    def __init__(self, dataset: RawDataset, tokenizer: Any, block_size: int, cache_dir: str | Path | None = None):
        if block_size < 3:
            raise ValueError(f"Blocks of {block_size} tokens have no room for text; use at least 3.")
        self.block_size = block_size
        self.bad = dataset.bad
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        documents = list(_good_texts(dataset))
        if not documents:
            raise ValueError(f"Not one of the {len(dataset)} documents can be used. {dataset.bad.report()}")
        self.tokens = _tokenise_cached(documents, tokenizer, cache_dir)
        self._body = block_size - 2

    def __len__(self) -> int:
        return max(1, len(self.tokens) // self._body)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"id": index, "input_ids": int64 (block_size,), "label": None, "group": None}."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no block {index} in a data set of {len(self)}.")
        index = int(index) % len(self)
        body = np.asarray(self.tokens[index * self._body : (index + 1) * self._body], dtype=np.int64)
        ids = np.concatenate([[self.bos], body, [self.eos]])
        return {"id": index, "input_ids": ids, "label": None, "group": None}


def _good_texts(dataset: RawDataset) -> Iterator[str]:
    for index in range(len(dataset)):
        try:
            record = dataset.load(index)
        except BadSample:
            continue
        yield record["text"] if "text_pair" not in record else f"{record['text']}\n{record['text_pair']}"


def _tokenise_cached(documents: list[str], tokenizer: Any, cache_dir: str | Path | None) -> np.ndarray:
    if cache_dir is None:
        return _tokenise(documents, tokenizer)
    digest = hashlib.blake2b(tokenizer.backend_tokenizer.to_str().encode(), digest_size=16)
    for document in documents:
        digest.update(hashlib.blake2b(document.encode(), digest_size=16).digest())
    path = Path(cache_dir) / f"tokens-{digest.hexdigest()}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that a run that is killed here, or a second process, never leaves half a file behind.
        partial = path.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(partial, _tokenise(documents, tokenizer))
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def _tokenise(documents: list[str], tokenizer: Any) -> np.ndarray:
    """Return all token ids, each document followed by </s>, int32."""
    parts = []
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        batch = documents[start : start + DOCUMENTS_AT_ONCE]
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        parts.extend(np.array([*ids, tokenizer.eos_token_id], dtype=np.int32) for ids in encoded)
    return np.concatenate(parts)
