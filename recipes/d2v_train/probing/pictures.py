"""Pictures at intervals: samples of the run under their masks, and nearest neighbours in the space of the features."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2v_train.batching.batches import StepDataset
from d2v_train.inputs.collate import MODALITY_OF_INPUT
from d2v_train.models.encoders import observed_encoder
from d2v_train.probing.drawings import (
    draw_audio_masks,
    draw_image_masks,
    draw_neighbours,
    draw_text_masks,
    spectrogram,
)
from d2v_train.support.extras import need
from d2v_train.support.processes import ONE_PROCESS, Processes


logger = logging.getLogger(__name__)

MASKED = {"vision": 6, "audio": 4, "text": 3}
"""Samples that are shown under their masks."""
POOL = 64
"""Samples that neighbours are looked for among."""
ROWS, NEIGHBOURS = 5, 5
MOST_STEPS = 200
"""Steps whose batches are looked through for that many."""


class Pictures:
    """Draws into `pictures/` of the run's folder.

    Args:
        every: steps between two sets; 0 = none.
        folder: of the run.
        steps: the batches of the run.
        config: configuration of the model.
        tokenizer: of text.
        processes: of the run; the main one alone draws.

    Attributes:
        share: gets the pictures of a step, by name, such as a function that gives them to trackers.

    Raises:
        MissingDependencyError: pictures are wanted, and there is no matplotlib.
    """

    def __init__(
        self,
        every: int,
        folder: Path,
        steps: StepDataset,
        config: Any,
        tokenizer: Any = None,
        processes: Processes = ONE_PROCESS,
    ):
        self.every, self.folder, self.steps, self.config = every, Path(folder) / "pictures", steps, config
        self.tokenizer, self.processes = tokenizer, processes
        self.share: Callable[[dict[str, Path], int], None] = lambda pictures, step: None
        if every:
            need("matplotlib", "plots")

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Draws what the run sees at a step; nothing for the log. What fails is reported and ends no run.

        Args:
            model: the pretraining model; it is left as it was.
            step: finished steps.
        """
        if not self.processes.main:
            return {}
        drawn: dict[str, Path] = {}
        try:
            for name, samples in self._samples(max(step - 1, 0)).items():
                start = self.folder / f"step_{step:08d}_{name}"
                drawn[f"{name}/masks"] = self._draw_masks(name, samples, Path(f"{start}_masks.png"))
                if len(samples) > NEIGHBOURS:
                    path = Path(f"{start}_neighbours.png")
                    drawn[f"{name}/neighbours"] = self._draw_neighbours(name, samples, model, path)
        except Exception as error:  # a full disk, above all; the other processes are waiting
            logger.warning("Step %d: no pictures: %s: %s", step, type(error).__name__, error)
            return {}
        logger.info("Step %d: pictures in %s", step, self.folder)
        self.share(drawn, step)
        return {}

    def _samples(self, first: int) -> dict[str, list[dict[str, Tensor]]]:
        """The first samples of each modality from a step on, as the run takes them, without padding."""
        found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.steps.datasets}
        for step in range(first, first + MOST_STEPS):
            wanted = [name for name in self.steps.plan.modalities_at(step) if len(found[name]) < POOL]
            for batch in self.steps[step] if wanted else []:
                found[batch.modality] += [self._sample(batch.inputs, row) for row in range(len(batch.inputs["mask"]))]
            if all(len(samples) >= POOL for samples in found.values()):
                break
        return {name: samples[:POOL] for name, samples in found.items() if samples}

    def _sample(self, inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
        """One sample of a batch: "input" and its "mask" (M, T)."""
        name = next(name for name in inputs if name in MODALITY_OF_INPUT)
        value, mask = inputs[name][row], inputs["mask"][row]
        if "attention_mask" in inputs:
            length = int(inputs["attention_mask"][row].sum())
            tokens = self.config.audio_config.num_frames(length) if name == "input_values" else length
            value, mask = value[:length], mask[:, :tokens]
        return {"name": name, "input": value, "mask": mask, "id": int(inputs["sample_ids"][row])}

    def _name(self, modality: str, sample: dict[str, Any]) -> str:
        name_of = getattr(self.steps.datasets[modality], "name_of", None)
        return Path(name_of(sample["id"])).name[-28:] if name_of is not None else f"sample {sample['id']}"

    def _draw_masks(self, modality: str, samples: list[dict[str, Any]], path: Path) -> Path:
        samples = samples[: MASKED[modality]]
        values = [sample["input"].numpy() for sample in samples]
        masks = [sample["mask"].numpy() for sample in samples]
        names = [self._name(modality, sample) for sample in samples]
        if modality == "vision":
            grid = self.config.modality_config("vision").grid_size(*values[0].shape[-2:])
            return draw_image_masks(path, values, np.stack([mask.reshape(-1, *grid) for mask in masks]), names)
        if modality == "audio":
            settings = self.config.modality_config("audio")
            return draw_audio_masks(path, values, masks, names, settings.frame_stride, settings.sampling_rate)
        return draw_text_masks(path, [self._tokens(value) for value in values], [mask[0] for mask in masks])

    def _tokens(self, ids: np.ndarray) -> list[str]:
        """Tokens as people read them; a part of a character is a box."""
        return [self.tokenizer.decode([int(entry)]).replace("\n", "⏎").replace("\ufffd", "□") for entry in ids]

    def _draw_neighbours(self, modality: str, samples: list[dict[str, Any]], model: nn.Module, path: Path) -> Path:
        features = self._features(samples, model)
        likeness = features @ features.T
        queries = np.arange(min(ROWS, len(samples)))
        order = np.argsort(-likeness[queries] - 2 * (queries[:, None] == np.arange(len(samples))), axis=1)
        order = order[:, : 1 + NEIGHBOURS]
        values: list[Any] = [sample["input"].numpy() for sample in samples]
        if modality == "audio":
            values = [spectrogram(value, self.config.modality_config("audio").frame_stride) for value in values]
        elif modality == "text":
            values = [self.tokenizer.decode(value.tolist(), skip_special_tokens=True) for value in values]
        names = [self._name(modality, sample) for sample in samples]
        return draw_neighbours(path, values, names, order, np.take_along_axis(likeness[queries], order, 1), modality)

    @torch.no_grad()
    def _features(self, samples: list[dict[str, Any]], model: nn.Module) -> np.ndarray:
        """Features (N, D) of length 1, without what all samples have in common; the model keeps its mode."""
        encoder = observed_encoder(model)
        training, device = encoder.training, next(encoder.parameters()).device
        encoder.eval()
        try:
            rows = []
            for sample in samples:
                output = encoder(**{sample["name"]: sample["input"][None].to(device)})
                rows.append(output.pooler_output[0].float().cpu())
        finally:
            encoder.train(training)
        features = torch.stack(rows)
        features = features - features.mean(dim=0)
        return torch.nn.functional.normalize(features, dim=1).numpy()
