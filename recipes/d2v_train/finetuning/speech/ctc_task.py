"""Speech recognition with CTC as a `Task`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForCTC, EvalPrediction

from d2v_train.batching.lengths import header_seconds
from d2v_train.data.records import RawDataset
from d2v_train.finetuning.class_labels import no_label
from d2v_train.finetuning.data import FinetuningDataset
from d2v_train.finetuning.metrics import CharacterErrorRate, WordErrorRate, compute_all
from d2v_train.finetuning.models import load_config
from d2v_train.finetuning.run import write_predictions
from d2v_train.finetuning.speech.ctc import prepare_transcription, select_evaluation, select_training
from d2v_train.finetuning.speech.task import Selection, SpeechTask
from d2v_train.finetuning.speech.training import CTCTrainer
from d2v_train.finetuning.speech.transcripts import decode_frames, decode_labels
from d2v_train.inputs.transforms import build_transform
from d2v_train.support.extras import need
from modeling_d2v import Data2VecConfig


SHOWN_TEXTS = 3
"""Number of recordings whose texts are printed."""


class SpeechRecognition(SpeechTask):
    """Speech recognition in characters.

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

    def learn(self, training: RawDataset | None) -> None:
        self.transcription = prepare_transcription(self.model_args, self.data_args, training)
        self.tokenizer = self.transcription.tokenizer

    def selection(self, name: str, raw: RawDataset) -> Selection:
        if name != "training":
            return select_evaluation(raw, self.transcription, name)
        seconds = header_seconds(raw)
        selection = select_training(raw, seconds, self.transcription, self.config.audio_config, self.data_args)
        self.seconds = seconds[selection.indices]
        return selection

    def configuration(self) -> Data2VecConfig:
        fields = self.model_args.fields()
        fields["audio_config"] |= {"vocab_size": len(self.tokenizer), "pad_token_id": self.tokenizer.pad_token_id}
        return load_config(self.model_args, **fields)

    def dataset(self, name: str, raw: RawDataset) -> FinetuningDataset:
        target = no_label if raw.transcripts is None else self.transcription.labels
        transform = build_transform("audio", None, self.config, train=name == "training")
        return FinetuningDataset(raw, transform, target, self.args.seed)

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the word and character error rates of greedy decoding."""
        self.hypotheses = decode_frames(prediction.predictions, self.tokenizer)
        self.references = decode_labels(prediction.label_ids, self.tokenizer)
        return compute_all([WordErrorRate(), CharacterErrorRate()], self.hypotheses, self.references)

    def after_evaluation(self, dataset: FinetuningDataset | None) -> None:
        self.write("eval", dataset.raw, self.hypotheses, self.references)

    def predictions(self, name: str, dataset: FinetuningDataset, raw: RawDataset, output: Any) -> None:
        references = None if output.label_ids is None else decode_labels(output.label_ids, self.tokenizer)
        self.write(name, dataset.raw, decode_frames(output.predictions, self.tokenizer), references)

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
