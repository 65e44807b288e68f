"""Training and evaluation of the heads for speech with `Trainer`.

Shapes: B samples, T frames, W tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import EvalPrediction

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.metrics import CharacterErrorRate, WordErrorRate, compute_all
from d2v_train.finetuning.speech.length_sampler import LengthSampler
from d2v_train.finetuning.speech.transcripts import decode_frames, decode_labels
from d2v_train.finetuning.trainer import FinetuningTrainer


SHOWN_TEXTS = 3
"""Recordings whose texts are printed."""


class SpeechTrainer(FinetuningTrainer):
    """`FinetuningTrainer` whose `train_sampling_strategy="group_by_length"` decodes nothing.

    Args:
        args, kwargs: as for `FinetuningTrainer`.
        train_seconds: length of each training sample.
    """

    def __init__(
        self,
        *args: Any,
        train_seconds: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.length_sampler: LengthSampler | None = None
        if self.args.train_sampling_strategy == "group_by_length" and train_seconds is not None:
            update = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            self.length_sampler = LengthSampler(train_seconds, update, seed, lambda: self.train_dataset.epoch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.length_sampler is None else self.length_sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # In the order of the data: predictions are told apart by their place.
        return SequentialSampler(eval_dataset)


class CTCTrainer(SpeechTrainer):
    """`SpeechTrainer` that keeps the best token of each frame, (B, T), instead of the logits (B, T, W).

    Frames of padding hold the blank: what a model says about silence that is not there is no part of its transcript.
    """

    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if logits is None:
            return loss, logits, labels
        ids = logits.argmax(dim=-1)
        if "attention_mask" in inputs:
            audio = self.model.config.audio_config
            frames = audio.num_frames(inputs["attention_mask"].sum(dim=1)).to(ids.device)
            padding = torch.arange(ids.shape[1], device=ids.device) >= frames[:, None]
            ids = ids.masked_fill(padding, audio.pad_token_id)
        return loss, ids, labels


class CTCMetrics:
    """Word and character error rate of the best token of each frame; keeps the texts of the last evaluation.

    Args:
        tokenizer: a `Wav2Vec2CTCTokenizer`.

    Attributes:
        references, hypotheses: texts of the last evaluation, in the order of its data.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.references: list[str] = []
        self.hypotheses: list[str] = []

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        self.hypotheses = decode_frames(prediction.predictions, self.tokenizer)
        self.references = decode_labels(prediction.label_ids, self.tokenizer)
        return compute_all([WordErrorRate(), CharacterErrorRate()], self.hypotheses, self.references)


def save_texts(
    trainer: FinetuningTrainer,
    name: str,
    raw: RawDataset,
    hypotheses: Sequence[str],
    references: Sequence[str] | None,
) -> None:
    """Writes what was heard in each recording, and what was said if that is known, and shows the first ones.

    The file is `predictions_{name}.jsonl` in the folder of the run, one JSON object a line.

    Args:
        trainer: of the run; only its first process writes.
        name: "eval" or "test".
        raw: the recordings, in the order of the texts.
        hypotheses, references: texts.
    """
    if not trainer.is_world_process_zero():
        return
    lines = [{"id": raw.name_of(i), "hypothesis": text} for i, text in enumerate(hypotheses)]
    if references is not None:
        lines = [{**line, "reference": text} for line, text in zip(lines, references, strict=True)]
    path = Path(trainer.args.output_dir) / f"predictions_{name}.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    for line in lines[:SHOWN_TEXTS]:
        if references is not None:
            print(f"said:  {line['reference']}")
        print(f"heard: {line['hypothesis']}")
