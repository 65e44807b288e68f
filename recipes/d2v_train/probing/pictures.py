"""Pictures at intervals: samples of the run under their masks, and nearest neighbours by their features."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from d2v_train.batching.batches import StepDataset
from d2v_train.data.tables import SAMPLING_RATE
from d2v_train.models.encoders import observed_encoder
from d2v_train.probing.drawings import (
    draw_audio_masks,
    draw_image_masks,
    draw_neighbours,
    draw_series_masks,
    draw_text_masks,
    draw_text_neighbours,
    show_array,
    show_image,
    show_spectrogram,
    spectrogram,
)
from d2v_train.support.extras import need
from d2v_train.support.processes import ONE_PROCESS, Processes
from modeling_d2v.modalities import modality_of_input


logger = logging.getLogger(__name__)

POOL = 64
"""Number of samples among which neighbours are searched."""
ROWS, NEIGHBOURS = 5, 5
MOST_STEPS = 200
"""Maximum number of steps whose batches are read to collect them."""


NAME_LETTERS = 28
LABEL_LETTERS = 20
"""Letters of a label that a picture has room for."""


class Samples(NamedTuple):
    """Samples of a modality, each without padding, with names and settings for drawing."""

    values: list[np.ndarray]
    """Inputs of the model."""
    masks: list[np.ndarray]
    """(M, T) each."""
    names: list[str]
    labels: list[str]
    """Names of their classes, or empty."""
    settings: Any
    """Configuration of the modality."""
    tokenizer: Any
    """Tokenizer of text."""

    @property
    def captions(self) -> list[str]:
        """Names of the samples, with their labels below."""
        return ["\n".join(filter(None, pair)) for pair in zip(self.names, self.labels, strict=True)]

    @property
    def grids(self) -> list[np.ndarray]:
        """Masks (M, rows, columns); those of 1-D tokens have one column."""
        shapes = [self.settings.token_grid(value.shape) for value in self.values]
        return [mask.reshape(len(mask), *(shape or (-1, 1))) for mask, shape in zip(self.masks, shapes, strict=True)]

    @property
    def element_masks(self) -> list[np.ndarray]:
        """Masks (M, length) of the ids of texts, of which a token may hold several."""
        if not self.settings.is_perceiver:
            return self.masks
        size = self.settings.group_size
        pairs = zip(self.values, self.masks, strict=True)
        return [np.repeat(mask, size, axis=1)[:, : len(value)] for value, mask in pairs]

    @property
    def tokens(self) -> list[list[str]]:
        """Human-readable tokens of texts; a part of a character is a box."""
        decode = self.tokenizer.decode
        return [[decode([int(i)]).replace("\n", "⏎").replace("\ufffd", "□") for i in ids] for ids in self.values]


def label_text(dataset: Any, index: int) -> str:
    """Return the names of the classes of a sample, separated by commas, or its number; "" without a label."""
    labels, names = getattr(dataset, "labels", None), getattr(dataset, "label_names", None)
    if labels is None:
        return ""
    label = np.asarray(labels[index])
    if label.ndim:
        found = [str(names[place]) if names else str(place) for place in np.flatnonzero(label == 1)]
    elif np.issubdtype(label.dtype, np.floating):
        found = [f"{label:g}"] if np.isfinite(label) else []
    else:
        found = [str(names[label]) if names else str(label)] if label >= 0 else []
    text = " ".join(", ".join(found).split())
    return text if len(text) <= LABEL_LETTERS else f"{text[: LABEL_LETTERS - 1]}…"


def short_names(names: Sequence[str]) -> list[str]:
    """Return the last parts of paths, as many as tell the samples apart, and of "row 3 (a/b.wav)" the row."""
    rows = [found[0] if (found := re.match(r"row \d+", name)) else name for name in names]
    different = list(dict.fromkeys(rows))
    short: dict[str, str] = {}
    for depth in range(1, 1 + max(len(Path(name).parts) for name in different)):
        tails = {name: "/".join(Path(name).parts[-depth:])[-NAME_LETTERS:] for name in different}
        counts = Counter(tails.values())
        short |= {name: tail for name, tail in tails.items() if counts[tail] == 1 and name not in short}
    return [short.get(name) or f"{name[-NAME_LETTERS:]} ({different.index(name) + 1})" for name in rows]


class Drawing(NamedTuple):
    """Functions that draw samples of a modality."""

    masked: int
    """Number of samples that are shown under their masks."""
    masks: Callable[[Path, Samples], Path]
    neighbours: Callable[[Path, Samples, np.ndarray, np.ndarray], Path]
    """Takes order and similarity as in `draw_neighbours`."""


def _speech_masks(path: Path, samples: Samples) -> Path:
    # Rows of the token grid are frames; in the picture, time is the horizontal axis.
    turned, settings = [grid.transpose(0, 2, 1) for grid in samples.grids], samples.settings
    return draw_audio_masks(
        path, samples.values, turned, samples.names, settings.frame_stride, SAMPLING_RATE, settings.band_edges
    )


def _speech_neighbours(path: Path, samples: Samples, order: np.ndarray, similarity: np.ndarray) -> Path:
    shown = [spectrogram(value, samples.settings.frame_stride) for value in samples.values]
    return draw_neighbours(path, shown, samples.captions, order, similarity, show_spectrogram, samples.captions)


def _text_neighbours(path: Path, samples: Samples, order: np.ndarray, similarity: np.ndarray) -> Path:
    texts = [samples.tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in samples.values]
    return draw_text_neighbours(path, texts, order, similarity, samples.labels)


def _array_neighbours(path: Path, samples: Samples, order: np.ndarray, similarity: np.ndarray) -> Path:
    return draw_neighbours(path, samples.values, samples.captions, order, similarity, show_array, samples.captions)


def _array_masks(path: Path, samples: Samples) -> Path:
    return draw_series_masks(path, samples.values, samples.masks, samples.names)


DRAWINGS: dict[str, Drawing] = {
    "text": Drawing(
        3,
        lambda path, these: draw_text_masks(path, these.tokens, [mask[0] for mask in these.element_masks]),
        _text_neighbours,
    ),
    "vision": Drawing(
        6,
        lambda path, these: draw_image_masks(path, these.values, np.stack(these.grids), these.names),
        lambda path, these, *near: draw_neighbours(
            path, these.values, these.captions, *near, show_image, these.labels
        ),
    ),
    "audio": Drawing(4, _speech_masks, _speech_neighbours),
    "arrays": Drawing(4, _array_masks, _array_neighbours),
}


class Pictures:
    """An observer that draws into the folder `pictures` of the run.

    Args:
        every: Steps between two sets; 0 = none.
        folder: Folder of the run.
        steps: Batches of the run.
        config: Configuration of the model.
        tokenizer: Tokenizer of text.
        processes: Processes of the run; only the main one draws.
        share: `share(pictures, step)` receives the pictures of a step by name, for trackers.

    Raises:
        MissingDependencyError: If `every` is not 0 and matplotlib is not installed.
    """

    def __init__(
        self,
        every: int,
        folder: Path,
        steps: StepDataset,
        config: Any,
        tokenizer: Any = None,
        processes: Processes = ONE_PROCESS,
        share: Callable[[dict[str, Path], int], None] = lambda pictures, step: None,
    ):
        self.every, self.folder, self.steps, self.config = every, Path(folder) / "pictures", steps, config
        self.tokenizer, self.processes = tokenizer, processes
        self.share = share
        if every:
            need("matplotlib", "plots")

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        """Draw the samples of a step, and return no values for the log. A failure is logged and does not end the run.

        Args:
            model: Pretraining model, which is not changed.
            step: Finished steps.
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
        except Exception as error:  # mostly a full disk; the other processes are waiting
            logger.warning("Step %d: no pictures: %s: %s", step, type(error).__name__, error)
            return {}
        logger.info("Step %d: pictures in %s", step, self.folder)
        self.share(drawn, step)
        return {}

    def _samples(self, first: int) -> dict[str, list[dict[str, Tensor]]]:
        """Return the first samples of each modality from a step on, in the order of the run, without padding."""
        found: dict[str, list[dict[str, Tensor]]] = {name: [] for name in self.steps.data}
        for step in range(first, first + MOST_STEPS):
            wanted = [name for name in self.steps.plan.modalities_at(step) if len(found[name]) < POOL]
            for batch in self.steps[step] if wanted else []:
                found[batch.modality] += [self._sample(batch.inputs, row) for row in range(len(batch.inputs["mask"]))]
            if all(len(samples) >= POOL for samples in found.values()):
                break
        return {name: samples[:POOL] for name, samples in found.items() if samples}

    def _sample(self, inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
        """Return one sample of a batch: "input" and its "mask" (M, T)."""
        name = next(name for name in inputs if modality_of_input(name) is not None)
        value, mask = inputs[name][row], inputs["mask"][row]
        if "attention_mask" in inputs:
            length = int(inputs["attention_mask"][row].sum())
            settings = self.config.modality_config(modality_of_input(name))
            value, mask = value[:length], mask[:, : settings.num_tokens(length)]
        return {"name": name, "input": value, "mask": mask, "id": int(inputs["sample_ids"][row])}

    def _shown(self, modality: str, samples: list[dict[str, Any]]) -> Samples:
        dataset = self.steps.data[modality].dataset
        name_of = getattr(dataset, "name_of", lambda index: f"sample {index}")
        labels = [label_text(getattr(dataset, "dataset", dataset), sample["id"]) for sample in samples]
        return Samples(
            [sample["input"].numpy() for sample in samples],
            [sample["mask"].numpy() for sample in samples],
            short_names([name_of(sample["id"]) for sample in samples]),
            labels,
            self.config.modality_config(modality),
            self.tokenizer,
        )

    def _draw_masks(self, modality: str, samples: list[dict[str, Any]], path: Path) -> Path:
        drawing = DRAWINGS[modality]
        return drawing.masks(path, self._shown(modality, samples[: drawing.masked]))

    def _draw_neighbours(self, modality: str, samples: list[dict[str, Any]], model: nn.Module, path: Path) -> Path:
        features = self._features(samples, model)
        likeness = features @ features.T
        queries = np.arange(min(ROWS, len(samples)))
        order = np.argsort(-likeness[queries] - 2 * (queries[:, None] == np.arange(len(samples))), axis=1)
        order = order[:, : 1 + NEIGHBOURS]
        similarity = np.take_along_axis(likeness[queries], order, 1)
        return DRAWINGS[modality].neighbours(path, self._shown(modality, samples), order, similarity)

    @torch.no_grad()
    def _features(self, samples: list[dict[str, Any]], model: nn.Module) -> np.ndarray:
        """Return centred features (N, D) of unit norm; the model keeps its mode."""
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
