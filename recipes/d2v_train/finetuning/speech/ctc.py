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
from d2v_train.finetuning.metrics import CharacterErrorRate, PhonemeErrorRate, WordErrorRate, compute_all
from d2v_train.finetuning.speech.arguments import CTCDataArguments
from d2v_train.finetuning.speech.casing import CASES
from d2v_train.finetuning.speech.task import Selection
from d2v_train.finetuning.speech.transcripts import Normaliser, merges_of
from d2v_train.finetuning.speech.vocabulary import (
    CHARACTER,
    PHONEME,
    Vocabulary,
    build_ctc_tokenizer,
    case_of,
    load_ctc_tokenizer,
    phoneme_tokenizer,
)
from d2v_train.inputs.tokenizer import WORD_DELIMITER
from modeling_d2v import Data2VecAudioConfig
from modeling_d2v.ctc import ctc_min_frames


logger = logging.getLogger(__name__)

EMPTY = "without a transcript"


MOST_UNKNOWN = 0.5
"""Share of unknown tokens above which a vocabulary is not that of the transcripts."""


@dataclass
class Transcription:
    """Conversion of transcripts to labels.

    Args:
        normalise: Normalisation of transcripts.
        vocabulary: Tokens.
        has_words: Whether the training transcripts have word delimiters, if the tokens are phonemes.
    """

    normalise: Normaliser
    vocabulary: Vocabulary
    has_words: bool = False

    def labels(self, record: dict[str, Any]) -> np.ndarray:
        """Return the label ids of a record of a `RawDataset`, int64."""
        return self.vocabulary.encode(self.normalise(record["transcript"]))

    def texts(self, raw: RawDataset) -> list[str]:
        """Return the normalised transcripts of all records."""
        return [self.normalise(text) for text in raw.transcripts]

    def min_frames(self, texts: Sequence[str]) -> np.ndarray:
        """Return the minimum number of frames for an alignment of each normalised text."""
        labels = [torch.from_numpy(self.vocabulary.encode(text)) for text in texts]
        return np.array([int(ctc_min_frames(ids, self.vocabulary.blank)) for ids in labels])

    def tokenizer(self) -> Any:
        """Return the tokenizer to save with the model; it reads and writes texts as this does."""
        tokenizer = self.vocabulary.tokenizer
        if self.vocabulary.unit == PHONEME:
            tokenizer = phoneme_tokenizer(self.vocabulary)
        elif self.normalise.language is not None:
            # Not an argument of the tokenizer; it is kept among its settings.
            tokenizer.init_kwargs["language"] = self.normalise.language
        return tokenizer

    def measure(self, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Return the error rates of texts: of words if there is a word delimiter, and of characters or phonemes."""
        delimiter = self.vocabulary.delimiter
        if self.vocabulary.unit != PHONEME:
            words = [] if delimiter is None else [WordErrorRate()]
            return compute_all([*words, CharacterErrorRate()], hypotheses, references)
        texts = (hypotheses, references)
        rates = compute_all([PhonemeErrorRate()], *map(self._without_delimiter, texts))
        if delimiter is None or not (self.has_words or any(delimiter in text.split() for text in references)):
            return rates
        words = [[" ".join(map("-".join, self.vocabulary.words(text))) for text in part] for part in texts]
        return compute_all([WordErrorRate()], *words) | rates

    def _without_delimiter(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(token for token in text.split() if token != self.vocabulary.delimiter) for text in texts]


def prepare_transcription(
    model_args: ModelArguments, data_args: CTCDataArguments, train: RawDataset | None, config: Any = None
) -> Transcription:
    """Return the transcription with the vocabulary of --tokenizer_name, the checkpoint or the training transcripts.

    What the normalisation makes equal in the training transcripts is logged.

    Args:
        model_args, data_args: Options.
        train: Training data.
        config: Configuration of the checkpoint, whose head decides on the number of tokens and the blank.

    Raises:
        ValueError: If none of the three has a vocabulary, or it does not fit the options or the transcripts.
    """
    ignored = "".join(data_args.chars_to_ignore)
    known = _known_vocabulary(model_args, data_args, config)
    if known is None and train is None:
        raise ValueError(
            f"{model_args.model_name_or_path} has no vocabulary of characters or phonemes. Name one with "
            "--tokenizer_name, or train the model first."
        )
    if known is not None:
        normalise = _normaliser_of(known, data_args, ignored)
    else:
        unit = data_args.unit or CHARACTER
        case = CASES[data_args.case or ("keep" if unit == PHONEME else "upper")]
        normalise = Normaliser(case, ignored, data_args.language, unit, data_args.word_delimiter or WORD_DELIMITER)
    if train is not None:
        for sentence in merges_of(train.transcripts, normalise):
            logger.warning("Training transcripts: %s", sentence)
    if known is None:
        tokenizer = build_ctc_tokenizer(map(normalise, train.transcripts), normalise.unit, normalise.delimiter)
        known = Vocabulary(tokenizer, normalise.unit)
        logger.info("The vocabulary has %d tokens (%ss): %s", len(known), known.unit, " ".join(known.ids))
    transcription = Transcription(normalise, known)
    if train is not None:
        texts = transcription.texts(train)
        if known.unit == PHONEME:
            transcription.has_words = any(known.delimiter in text.split() for text in texts)
        warn_unknown(texts, known, "training")
    return transcription


def _known_vocabulary(model_args: ModelArguments, data_args: CTCDataArguments, config: Any) -> Vocabulary | None:
    name = model_args.tokenizer_name or model_args.model_name_or_path
    if name is None:
        return None
    tokenizer = load_ctc_tokenizer(name, required=model_args.tokenizer_name is not None, **model_args.hub_options)
    if tokenizer is None:
        return None
    size = None
    if model_args.tokenizer_name is None and any(
        name.endswith("ForCTC") for name in getattr(config, "architectures", None) or ()
    ):
        # transformers adds special tokens that a vocabulary lacks; the head of the checkpoint does not have them.
        audio, ids = config.audio_config, tokenizer.get_vocab()
        size = min(audio.vocab_size, max(ids.values()) + 1)
        if ids.get(tokenizer.pad_token) != audio.pad_token_id:
            blank = next((token for token, number in ids.items() if number == audio.pad_token_id), None)
            logger.warning("The blank of %s is %r, not %r, its pad token.", name, blank, tokenizer.pad_token)
            tokenizer.pad_token = blank
    vocabulary = Vocabulary(tokenizer, data_args.unit, size)
    if vocabulary.delimiter is None and vocabulary.unit == CHARACTER:
        logger.warning(
            "The vocabulary of %s has no word delimiter: spaces are left out of the transcripts, and only the "
            "character error rate is measured.",
            name,
        )
    return vocabulary


def _normaliser_of(vocabulary: Vocabulary, data_args: CTCDataArguments, ignored: str) -> Normaliser:
    """Return the normalisation of transcripts for a given vocabulary, in its case.

    Raises:
        ValueError: If --case or --word_delimiter contradict it.
    """
    tokenizer, delimiter = vocabulary.tokenizer, data_args.word_delimiter
    if delimiter not in (None, vocabulary.delimiter):
        has = "has none" if vocabulary.delimiter is None else f"has {vocabulary.delimiter!r}"
        raise ValueError(f"--word_delimiter is {delimiter!r}, but the vocabulary of {tokenizer.name_or_path} {has}.")
    own = case_of(tokenizer)
    case = own if vocabulary.unit == CHARACTER else None
    if data_args.case is not None:
        case = CASES[data_args.case]
        if None not in (own, case) and own != case:
            raise ValueError(
                f"--case is {data_args.case}, but the letters of the vocabulary of {tokenizer.name_or_path} are in "
                f"{'lower' if own else 'upper'} case. Leave it out, or start from a model without a vocabulary."
            )
    language = data_args.language or tokenizer.init_kwargs.get("language")
    characters = frozenset(character for token in vocabulary.written for character in token)
    # A space of the text is the delimiter, whatever the token of it is.
    delimiter = WORD_DELIMITER if vocabulary.delimiter in (None, " ") else vocabulary.delimiter
    return Normaliser(case, ignored, language, vocabulary.unit, delimiter, characters)


def warn_unknown(texts: Sequence[str], vocabulary: Vocabulary, name: str) -> None:
    """Log a warning that counts and names the tokens of transcripts that a vocabulary lacks.

    Args:
        texts: Normalised transcripts.
        vocabulary: Their vocabulary.
        name: Name of the data.

    Raises:
        ValueError: If it lacks more than half of all tokens.
    """
    unknown = vocabulary.unknown_tokens(texts)
    if not unknown:
        return
    shown = ", ".join(f"{token!r} ({count})" for token, count in unknown.most_common(10))
    total = sum(len(vocabulary.cut(text)) for text in texts)
    unit, sign = vocabulary.unit, vocabulary.tokenizer.unk_token
    if unknown.total() > MOST_UNKNOWN * total:
        raise ValueError(
            f"{unknown.total():,} of the {total:,} {unit}s of the {name} transcripts are not in the vocabulary of "
            f"{vocabulary.tokenizer.name_or_path}: {shown}. Check --case, --unit and --text_column, name another "
            "--tokenizer_name, or start from a model without a vocabulary to build a new one."
        )
    what = f"become {sign}"
    if vocabulary.unknown is None:
        what = "are left out of labels and references, as it has no unknown token"
    logger.warning(
        "The vocabulary lacks %d %ss of the %s transcripts, which %s: %s. Remove them with --chars_to_ignore, or "
        "start from a checkpoint without a vocabulary to build a new one.",
        len(unknown),
        unit,
        name,
        what,
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
        texts = transcription.texts(raw)
        warn_unknown(texts, transcription.vocabulary, name)
        selection.leave_out(EMPTY, np.array([not text for text in texts]))
    return selection
