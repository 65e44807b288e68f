"""Speech recognition with CTC as a `Task`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCTC, EvalPrediction

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.class_labels import no_label
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.run import write_predictions
from d2v_train.finetuning.speech.ctc import prepare_transcription, select_evaluation, select_training
from d2v_train.finetuning.speech.task import Selection, SpeechTask
from d2v_train.finetuning.speech.training import CTCTrainer
from d2v_train.finetuning.speech.vocabulary import PHONEME
from d2v_train.support.extras import need
from modeling_d2v import Data2VecConfig


SHOWN_TEXTS = 3
"""Number of recordings whose texts are printed."""


class SpeechRecognition(SpeechTask):
    """Speech recognition in characters or phonemes.

    Attributes:
        hypotheses, references: Texts of the last evaluation, in the order of its data.
    """

    auto_class = AutoModelForCTC
    hub_task = "automatic-speech-recognition"
    trainer_class = CTCTrainer

    def __init__(self, model_args: Any, data_args: Any, args: Any) -> None:
        if args.do_eval or args.do_predict:
            need("jiwer", "audio")
        super().__init__(model_args, data_args, args)
        self.hypotheses: list[str] = []
        self.references: list[str] = []

    def unlabelled(self, raw: RawDataset) -> np.ndarray | None:
        return None if raw.transcripts is None else np.array([not text.strip() for text in raw.transcripts])

    def learn(self, training: RawDataset | None) -> None:
        self.transcription = prepare_transcription(self.model_args, self.data_args, training, self.config)
        self.tokenizer = self.transcription.tokenizer()
        if self.args.takes_main_metric and self.transcription.vocabulary.unit == PHONEME:
            self.args.metric_for_best_model = "wer" if self.transcription.has_words else "per"
        elif self.args.takes_main_metric and self.transcription.vocabulary.delimiter is None:
            self.args.metric_for_best_model = "cer"

    def selection(self, name: str, raw: RawDataset) -> Selection:
        if name != "training":
            return select_evaluation(raw, self.transcription, name)
        seconds = header_seconds(raw)
        selection = select_training(raw, seconds, self.transcription, self.config.audio_config, self.data_args)
        self.seconds = seconds[selection.indices]
        return selection

    def configuration(self) -> Data2VecConfig:
        fields, vocabulary = self.model_args.fields(), self.transcription.vocabulary
        fields["audio_config"] |= {"vocab_size": len(vocabulary), "pad_token_id": vocabulary.blank}
        return load_config(self.model_args, **fields)

    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        target = no_label if raw.transcripts is None else self.transcription.labels
        return FinetuningDataset(raw, self.audio_transform(name == "training"), target, self.args.seed)

    def trainer_options(self) -> dict[str, Any]:
        return {**super().trainer_options(), "audio": self.config.audio_config}

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the error rates of greedy decoding, see `Transcription.measure`."""
        self.hypotheses = self._heard(prediction.predictions)
        self.references = self._written(prediction.label_ids)
        return self.transcription.measure(self.hypotheses, self.references)

    def _heard(self, ids: np.ndarray) -> list[str]:
        """Return the texts of the best token of each frame (B, T), padded with -100."""
        vocabulary = self.transcription.vocabulary
        return [vocabulary.decode_frames(row) for row in np.where(ids < 0, vocabulary.blank, ids)]

    def _written(self, labels: np.ndarray) -> list[str]:
        """Return the texts of label ids (B, S), padded with -100."""
        return [self.transcription.vocabulary.decode(row[row >= 0]) for row in labels]

    def card(self) -> dict[str, Any]:
        return {**super().card(), "language": self.transcription.normalise.language}

    def after_evaluation(self, dataset: FinetuningDataset | None) -> None:
        self.write("eval", dataset.raw, self.hypotheses, self.references)

    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        references = None if output.label_ids is None else self._written(output.label_ids)
        self.write(name, dataset.raw, self._heard(output.predictions), references)

    def write(self, name: str, raw: RawDataset, hypotheses: Sequence[str], references: Sequence[str] | None) -> None:
        """Write `predictions_{name}.jsonl` with hypotheses and references, and print the first ones.

        Args:
            name: "eval" or "test".
            raw: Recordings, in the order of the texts.
            hypotheses: Recognised texts.
            references: Transcripts, None if they are not known.
        """
        columns = {"id": [raw.name_of(index) for index in range(len(raw))], "hypothesis": hypotheses}
        if references is not None:
            columns["reference"] = references
        write_predictions(Path(self.args.output_dir) / f"predictions_{name}.jsonl", columns)
        for index in range(min(SHOWN_TEXTS, len(hypotheses))):
            if references is not None:
                print(f"reference:  {references[index]}")
            print(f"hypothesis: {hypotheses[index]}")
