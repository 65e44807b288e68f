"""Training and evaluation of the heads for speech with `Trainer`, in batches of recordings of similar lengths.

Shapes: B samples, T frames, W tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from d2v_train.batching.order import stable_seed
from d2v_train.batching.turns import sorted_stretch
from d2v_train.finetuning.trainer import FinetuningTrainer


class LengthSampler(Sampler):
    """Random order, a function of seed and epoch, in which the samples of an update have similar lengths.

    Args:
        lengths: Length of each sample; NaN counts as 0.
        batch_size: Samples of an update, over all processes and accumulated batches. They are sorted by length, so
            that the samples of a micro-batch have similar lengths too.
        seed: Seed of the order.
        epoch: Function that returns the epoch, counted from 0.
        stretch: Number of updates whose samples are sorted together; more means less padding and less shuffling.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, seed: int, epoch: Callable[[], int], stretch: int = 50
    ) -> None:
        self.lengths = np.nan_to_num(np.asarray(lengths, dtype=np.float64))
        self.batch_size, self.seed, self.epoch, self.stretch = batch_size, seed, epoch, stretch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(stable_seed(self.seed, "order by length", self.epoch()))
        order = rng.permutation(len(self.lengths))
        # `Trainer` cuts batches by counting: only the last one may be incomplete.
        full = len(order) // self.batch_size
        batches, last = np.split(order, [full * self.batch_size])
        # At least four stretches; otherwise a small data set would have the same batches in every epoch.
        size = self.batch_size * max(1, min(self.stretch, full // 4))
        for start in range(0, len(batches), size):
            part = batches[start : start + size]
            turns = sorted_stretch(self.lengths[part], len(part) // self.batch_size, self.batch_size, rng)
            yield from part[np.concatenate(turns)].tolist()
        yield from last[np.argsort(self.lengths[last], kind="stable")].tolist()


class SpeechTrainer(FinetuningTrainer):
    """`FinetuningTrainer` whose `train_sampling_strategy="group_by_length"` does not decode the recordings.

    Args:
        args, kwargs: Arguments of `FinetuningTrainer`.
        train_seconds: Length of each training sample.
    """

    def __init__(self, *args: Any, train_seconds: Sequence[float] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.length_sampler: LengthSampler | None = None
        if self.args.train_sampling_strategy == "group_by_length" and train_seconds is not None:
            update = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            self.length_sampler = LengthSampler(train_seconds, update, seed, lambda: self.train_dataset.epoch)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.length_sampler is None else self.length_sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # In the order of the data: predictions are identified by their index.
        return SequentialSampler(eval_dataset)


class CTCTrainer(SpeechTrainer):
    """`SpeechTrainer` that keeps the best token of each frame, (B, T), instead of the logits (B, T, W).

    Padding frames are set to the blank, since their predictions are not part of the transcript.

    Args:
        args, kwargs: Arguments of `SpeechTrainer`.
        audio: Configuration of the input: frames of a recording, and the blank.
    """

    def __init__(self, *args: Any, audio: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.audio = audio

    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if logits is None:
            return loss, logits, labels
        ids = logits.argmax(dim=-1)
        if "attention_mask" in inputs:
            audio = self.audio
            frames = audio.num_frames(inputs["attention_mask"].sum(dim=1)).to(ids.device)
            padding = torch.arange(ids.shape[1], device=ids.device) >= frames[:, None]
            ids = ids.masked_fill(padding, audio.pad_token_id)
        return loss, ids, labels
