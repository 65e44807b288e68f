"""Recordings with transcripts for CTC: vocabulary, labels and selection of recordings."""

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
    """Conversion of transcripts to labels.

    Args:
        normalise: Normalisation of transcripts.
        tokenizer: Tokenizer of characters.
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
        """Return the minimum number of frames for an alignment of each normalised text."""
        labels = [torch.from_numpy(ids) for ids in encode(texts, self.tokenizer)]
        return np.array([int(ctc_min_frames(ids, self.tokenizer.pad_token_id)) for ids in labels])


def prepare_transcription(
    model_args: ModelArguments, data_args: CTCDataArguments, train: RawDataset | None
) -> Transcription:
    """Return the transcription with the vocabulary of --tokenizer_name, the checkpoint or the training transcripts.

    Raises:
        ValueError: If none of the three has a vocabulary.
    """
    tokenizer = _known_tokenizer(model_args)
    ignored = "".join(data_args.chars_to_ignore)
    if tokenizer is not None:
        normalise = Normaliser(case_of(tokenizer), ignored)
        if train is not None:
            _warn_unknown_characters(Transcription(normalise, tokenizer).texts(train), tokenizer)
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


def _warn_unknown_characters(texts: Sequence[str], tokenizer: Any) -> None:
    unknown = unknown_characters(texts, tokenizer)
    if unknown:
        shown = ", ".join(f"{character!r} ({count})" for character, count in unknown.most_common(10))
        logger.warning(
            "The vocabulary lacks %d characters of the training transcripts, which become <unk>: %s. Remove them with "
            "--chars_to_ignore, or start from a checkpoint without a vocabulary to build a new one.",
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
    """Return the selection of recordings to train on.

    A transcript that is too long for the frames of its recording has no alignment; its loss would be infinite, which
    the model replaces by 0. Such recordings are left out.

    Args:
        raw: Training data.
        seconds: Length of each recording; NaN if its header cannot be read, which is reported when it is decoded.
        transcription: Conversion of its transcripts.
        config: Configuration of the model.
        data_args: Limits of the length.
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
    """Return the selection of recordings to evaluate on: all with a transcript, of any length."""
    selection = Selection(raw, name)
    if raw.transcripts is not None:
        selection.leave_out(EMPTY, np.array([not text for text in transcription.texts(raw)]))
    return selection
