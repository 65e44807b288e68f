"""Base of the tasks on speech: selection of recordings, batches of similar lengths, frozen convolutions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from d2v_train.data.records import RawDataset
from d2v_train.finetuning.plain_models import PlainSpeech
from d2v_train.finetuning.run import Task
from d2v_train.finetuning.speech.training import SpeechTrainer
from d2v_train.inputs.processors import feature_extractor
from d2v_train.inputs.transforms import build_transform
from d2v_train.support.atomic import write_json
from modeling_d2v import Data2VecProcessor


SHOWN_NAMES = 5
"""Number of names of excluded samples that are printed for each reason."""


class Selection:
    """Selection of samples of a data set, with the reasons why others are left out.

    Args:
        raw: The data set.
        name: Name of the data set in messages.
    """

    def __init__(self, raw: RawDataset, name: str) -> None:
        self.raw, self.name = raw, name
        self.kept = np.ones(len(raw), dtype=bool)
        self.left_out: dict[str, np.ndarray] = {}

    def leave_out(self, reason: str, which: np.ndarray) -> None:
        """Leave out the samples with True in `which` (N,) that are still used."""
        new = which & self.kept
        if new.any():
            self.left_out[reason] = np.flatnonzero(new)
            self.kept &= ~new

    @property
    def indices(self) -> np.ndarray:
        """Indices of the used samples.

        Raises:
            ValueError: If there are none.
        """
        if not self.kept.any():
            raise ValueError(f"No sample of the {self.name} data is left. {self.report()}")
        return np.flatnonzero(self.kept)

    def names(self, reason: str, limit: int | None = None) -> list[str]:
        """Return the names of the samples left out for a reason, at most `limit`."""
        return [self.raw.name_of(int(index)) for index in self.left_out[reason][:limit]]

    def report(self) -> str:
        """Return the numbers of used and excluded samples, with the first names for each reason."""
        lines = [f"{self.name} data: {int(self.kept.sum()):,} of {len(self.raw):,} recordings are used."]
        for reason, indices in self.left_out.items():
            more = ", ..." if len(indices) > SHOWN_NAMES else ""
            lines.append(f"  {reason}: {len(indices):,} ({', '.join(self.names(reason, SHOWN_NAMES))}{more})")
        return "\n".join(lines)


def report_selections(selections: Sequence[Selection], args: Any) -> None:
    """Print a report of the selections, and list all excluded samples in `left_out.json` in the folder of the run."""
    if args.process_index != 0:
        return
    print("\n".join(part.report() for part in selections))
    listed = {part.name: {reason: part.names(reason) for reason in part.left_out} for part in selections}
    if any(listed.values()):
        write_json(Path(args.output_dir) / "left_out.json", listed)


class SpeechTask(Task):
    """A task on recordings.

    Attributes:
        seconds: Length of each training recording, (N,).
        tokenizer: Tokenizer of transcripts, saved with the model; None if there is none.
    """

    modality = "audio"
    trainer_class = SpeechTrainer
    seconds: np.ndarray | None = None
    tokenizer: Any = None

    def __init__(self, model_args: Any, data_args: Any, args: Any) -> None:
        super().__init__(model_args, data_args, args)
        name = model_args.processor_name or model_args.model_name_or_path or model_args.config_name
        self.plain = PlainSpeech(name) if self.is_plain else None

    def audio_transform(self, training: bool, **options: Any) -> Any:
        """Return the transform of recordings, for training or for evaluation, with options of `AudioTransform`."""
        if self.plain is not None:
            options |= self.plain.transform
        return build_transform("audio", options, self.config, train=training)

    def select(self, raw: dict[str, RawDataset]) -> dict[str, RawDataset]:
        selections = {name: self.selection(name, part) for name, part in raw.items()}
        selected = {name: part.select(selections[name].indices) for name, part in raw.items()}
        report_selections(list(selections.values()), self.args)
        return super().select(selected)

    @abstractmethod
    def selection(self, name: str, raw: RawDataset) -> Selection:
        """Return the selection of recordings of a data set."""

    def build_model(self, training: RawDataset | None) -> PreTrainedModel:
        model = super().build_model(training)
        if self.model_args.freeze_feature_encoder:
            freeze = getattr(model, "freeze_feature_encoder", None)
            if freeze is None:
                raise ValueError(
                    f"{type(model).__name__} cannot freeze its convolutions: --no_freeze_feature_encoder."
                )
            freeze()
        return model

    def trainer_options(self) -> dict[str, Any]:
        if self.plain is None:
            processor = Data2VecProcessor(tokenizer=self.tokenizer, feature_extractor=feature_extractor(self.config))
        else:
            processor = self.plain.processor(self.tokenizer)
        return {**super().trainer_options(), "processor": processor, "train_seconds": self.seconds}
