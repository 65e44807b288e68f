"""Recordings with transcripts for CTC: the vocabulary, labels, and which of them can be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from d2v_train.data.records import RawDataset
from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.finetuning.arguments import ModelArguments
from d2v_train.finetuning.speech.arguments import CTCDataArguments
from d2v_train.finetuning.speech.task import Selection
from d2v_train.finetuning.speech.transcripts import (
    Normaliser,
    build_ctc_tokenizer,
    case_of,
    encode,
    load_ctc_tokenizer,
    unknown_characters,
)
from modeling_d2v import Data2VecAudioConfig
from modeling_d2v.ctc import ctc_min_frames


logger = logging.getLogger(__name__)

EMPTY = "without a transcript"


@dataclass
class Transcription:
    """How a transcript becomes labels.

    Args:
        normalise: from what is written to what the model is to write.
        tokenizer: of the characters.
    """

    normalise: Normaliser
    tokenizer: Any

    def labels(self, record: dict[str, Any]) -> np.ndarray:
        """Return the label ids of a record of a `RawDataset`, int64."""
        return encode([self.normalise(record["transcript"])], self.tokenizer)[0]

    def texts(self, raw: RawDataset) -> list[str]:
        """Return the normalised transcripts of all records."""
        return [self.normalise(text) for text in raw.transcripts]

    def min_frames(self, texts: Sequence[str]) -> np.ndarray:
        """Return the frames that each normalised text needs at least to be aligned."""
        labels = [torch.from_numpy(ids) for ids in encode(texts, self.tokenizer)]
        return np.array([int(ctc_min_frames(ids, self.tokenizer.pad_token_id)) for ids in labels])


def prepare_transcription(
    model_args: ModelArguments, data_args: CTCDataArguments, train: RawDataset | None
) -> Transcription:
    """Return the vocabulary of --tokenizer_name, else of the checkpoint, else of the training transcripts.

    Raises:
        ValueError: there is none of the three.
    """
    tokenizer = _known_tokenizer(model_args)
    ignored = "".join(data_args.chars_to_ignore)
    if tokenizer is not None:
        normalise = Normaliser(case_of(tokenizer), ignored)
        if train is not None:
            _warn_of_unknown(Transcription(normalise, tokenizer).texts(train), tokenizer)
        return Transcription(normalise, tokenizer)
    if train is None:
        raise ValueError(
            f"{model_args.model_name_or_path} has no vocabulary of characters. Name one with --tokenizer_name, or "
            "train the model first."
        )
    normalise = Normaliser(data_args.do_lower_case, ignored)
    tokenizer = build_ctc_tokenizer(normalise(text) for text in train.transcripts)
    logger.info("The vocabulary has %d tokens: %s", len(tokenizer), " ".join(tokenizer.get_vocab()))
    return Transcription(normalise, tokenizer)


def _known_tokenizer(model_args: ModelArguments) -> Any:
    if model_args.tokenizer_name:
        return load_ctc_tokenizer(model_args.tokenizer_name, required=True, **model_args.hub_options)
    if model_args.model_name_or_path:
        return load_ctc_tokenizer(model_args.model_name_or_path, **model_args.hub_options)
    return None


def _warn_of_unknown(texts: Sequence[str], tokenizer: Any) -> None:
    unknown = unknown_characters(texts, tokenizer)
    if unknown:
        shown = ", ".join(f"{character!r} ({count})" for character, count in unknown.most_common(10))
        logger.warning(
            "The vocabulary lacks %d characters of the training transcripts, which become <unk>: %s. Leave them out "
            "with --chars_to_ignore, or let a new vocabulary be built from a checkpoint without one.",
            len(unknown),
            shown,
        )


def select_training(
    raw: RawDataset,
    seconds: np.ndarray,
    transcription: Transcription,
    config: Data2VecAudioConfig,
    data_args: CTCDataArguments,
) -> Selection:
    """Return the recordings to train on.

    One whose transcript is longer than its frames allow has no alignment, and its loss would be infinite. The model
    counts it as 0; here it is left out, because it can teach nothing.

    Args:
        raw: training data.
        seconds: length of each recording, NaN where its header cannot be read: it is left to be met as broken.
        transcription: of its transcripts.
        config: of the model.
        data_args: limits.
    """
    texts = transcription.texts(raw)
    least, most = data_args.min_duration_in_seconds, data_args.max_duration_in_seconds
    selection = Selection(raw, "training")
    selection.leave_out(EMPTY, np.array([not text for text in texts]))
    selection.leave_out(f"shorter than --min_duration_in_seconds {least:g}", seconds < least)
    selection.leave_out(f"longer than --max_duration_in_seconds {most:g}", seconds > most)
    samples = np.nan_to_num(seconds, nan=float(2**31)) * SAMPLING_RATE
    frames = config.num_frames(torch.from_numpy(samples).round().long()).numpy()
    selection.leave_out("with a transcript too long for its frames", transcription.min_frames(texts) > frames)
    return selection


def select_evaluation(raw: RawDataset, transcription: Transcription, name: str = "validation") -> Selection:
    """Return the recordings to evaluate on: all that have a transcript, however long."""
    selection = Selection(raw, name)
    if raw.transcripts is not None:
        selection.leave_out(EMPTY, np.array([not text for text in transcription.texts(raw)]))
    return selection
