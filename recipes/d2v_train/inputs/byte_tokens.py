"""Texts as bytes, for the front end that reads raw elements: the ids of `ByT5Tokenizer` of transformers.

Ids: padding 0, end of text 1, unknown 2, then the 256 bytes of UTF-8. No text begins with a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import ByT5Tokenizer


BYTE_IDS = {"vocab_size": 259, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
"""Fields of the configuration of text that follow from the ids; the end of a text stands for its missing start."""
_FIRST_BYTE = 3


def byte_tokenizer(max_length: int | None = None) -> ByT5Tokenizer:
    """Return a tokenizer of bytes; after `save_pretrained`, `AutoTokenizer.from_pretrained` loads it.

    Args:
        max_length: Longest input of the model in bytes, stored with the tokenizer. None = no limit.
    """
    limit = {} if max_length is None else {"model_max_length": max_length}
    return ByT5Tokenizer(extra_ids=0, **limit)


def reads_bytes(tokenizer: Any) -> bool:
    """Return whether the tokens of a tokenizer are bytes."""
    return isinstance(tokenizer, ByT5Tokenizer)


def byte_ids(texts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of texts without the token that ends them, int64 (T,) each.

    They are those of the tokenizer, a hundred times faster, but names of special tokens in a text are its bytes.
    """
    encoded = (text.encode("utf-8", "replace") for text in texts)
    return [np.frombuffer(content, dtype=np.uint8).astype(np.int64) + _FIRST_BYTE for content in encoded]


def tokenizer_rules(tokenizer: Any) -> str:
    """Return a string that changes with the tokens that a tokenizer makes of a text."""
    return f"bytes from {_FIRST_BYTE}" if reads_bytes(tokenizer) else tokenizer.backend_tokenizer.to_str()
