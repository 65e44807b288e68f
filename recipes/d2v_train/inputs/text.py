"""Transform of a document into the model's input: tokens, packed into blocks in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d2v_train.data.records import RawDataset
from d2v_train.data.report import DataReport
from d2v_train.inputs.byte_tokens import reads_bytes
from d2v_train.inputs.long_texts import head_of_text
from d2v_train.inputs.packing import PackedTextDataset


CHARACTERS_PER_TOKEN = 64
"""Length of a text per token of the model's input from which only its beginning is tokenised, if that is enough."""


@dataclass
class TextTransform:
    """Text to token ids (T,): <s> text </s>, or <s> text </s></s> text pair </s>, cut to `max_length`.

    Of a tokenizer of bytes they are: text </s>, or text </s> text pair </s>.

    In training with `pack`, `prepare` returns blocks of exactly `max_length` tokens, which pass through unchanged.

    Attributes:
        tokenizer: Tokenizer of `build_tokenizer` or `load_tokenizer`.
        max_length: Tokens, special ones included.
        pack: Whether training documents are joined and cut into blocks.
        cache_dir: Folder that keeps packed tokens between runs; None keeps them in memory only.
        train: Whether `prepare` packs.
    """

    tokenizer: Any
    max_length: int = 512
    pack: bool = True
    cache_dir: str | None = None
    train: bool = True

    @staticmethod
    def of_model(settings: Any, tokenizer: Any = None) -> dict[str, Any]:
        """Return the options that follow from the configuration of the modality and the tokenizer.

        Raises:
            ValueError: If there is no tokenizer.
        """
        if tokenizer is None:
            raise ValueError("The text transform needs a tokenizer; see `build_tokenizer` and `load_tokenizer`.")
        return {"tokenizer": tokenizer, "max_length": settings.max_position_embeddings}

    @staticmethod
    def of_processor(processor: Any) -> dict[str, Any]:
        """Return no options: the transform uses the tokenizer itself."""
        return {}

    def prepare(
        self, dataset: RawDataset, block: int | None = None, report: DataReport | None = None
    ) -> RawDataset | PackedTextDataset:
        """Return the blocks that `dataset` packs into, or in evaluation `dataset` itself.

        Args:
            dataset: Documents.
            block: Not used: documents are packed in their order.
            report: Receives the bad documents and notes; None logs bad ones instead.
        """
        if self.train and self.pack:
            return PackedTextDataset(dataset, self.tokenizer, self.max_length, self.cache_dir, report)
        return dataset

    def __call__(self, record: dict[str, Any], seed: int = 0) -> dict[str, Any]:
        """Return {"input_ids": int64 (T,), "id"}."""
        ids = record.get("input_ids")
        if ids is None:
            pair = record.get("text_pair")
            encoded = self.tokenizer(
                self.head(record["text"]),
                None if pair is None else self.head(pair),
                truncation=True,
                max_length=self.max_length,
            )
            ids = encoded["input_ids"]
        return {"input_ids": torch.as_tensor(np.asarray(ids, dtype=np.int64)), "id": record["id"]}

    def head(self, text: str) -> str:
        """Return as much of a text as its first `max_length` tokens need, or the whole of it if it is not long."""
        if reads_bytes(self.tokenizer):
            return text[: self.max_length]  # no character has less than one byte
        size = CHARACTERS_PER_TOKEN * self.max_length
        while len(text) > size:
            head = head_of_text(text, size)
            if len(self.tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"]) > self.max_length:
                return head
            size *= 8
        return text
