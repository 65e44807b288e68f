"""Features of the examples of concepts at every layer of an encoder: mean over real tokens, and those of the word.

Examples are read and encoded a few batches at a time, sorted by length among them, and one vector per example and
layer is kept; with a cache on disk an encoder runs once.

Legend: N examples, n concepts, L layers, D width, B batch, T tokens, E extra tokens.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v_train.alignment.concepts import ConceptTable
from d2v_train.alignment.encoders import ModelPart, open_encoder
from d2v_train.alignment.sentences import span_of
from d2v_train.data.bad_samples import BadSample
from d2v_train.data.decoding import decode_audio, decode_image
from d2v_train.inputs.collate import Collator
from d2v_train.support.atomic import write_file
from modeling_d2v.modalities import modality_of_input


logger = logging.getLogger(__name__)

BATCHES_AHEAD = 8
"""Number of batches that are read ahead and sorted by length together."""
CACHE_FORMAT = 1
SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class Example:
    """One example of a concept.

    Attributes:
        concept: Index of the concept among those of the modality.
        word: Word of the concept.
        value: Path of a picture or recording, or a sentence.
    """

    concept: int
    word: str
    value: Path | str

    @property
    def label(self) -> str:
        """Name for results: that of the file, or the sentence."""
        return self.value.name if isinstance(self.value, Path) else self.value

    def stamp(self) -> list[Any]:
        """Return what changes when the example does."""
        if isinstance(self.value, str):
            return [self.concept, self.word, self.value]
        status = self.value.stat()
        return [self.concept, self.word, str(self.value), status.st_size, status.st_mtime_ns]


@dataclass
class LayerFeatures:
    """Features of the examples of a modality.

    Attributes:
        modality: "vision", "audio" or "text".
        names: n concepts.
        layers: Names of the layers.
        values: For each layer (N, D), float32.
        concepts: (N,) indices of the concepts.
        labels: N names of the examples.
        bad: One line per example that was left out.
        parameters: Parameters of the encoder; 0 without one.
        standardised: Whether features are brought to mean 0 and deviation 1 before they are averaged.
    """

    modality: str
    names: list[str]
    layers: list[str]
    values: list[np.ndarray]
    concepts: np.ndarray
    labels: list[str]
    bad: list[str] = field(default_factory=list)
    parameters: int = 0
    standardised: bool = True

    def exemplars(self, layer: int) -> np.ndarray:
        """Return the features of a layer, (N, D) float64, standardised over all examples of the modality."""
        values = self.values[layer].astype(np.float64)
        values -= values.mean(axis=0)
        return values / np.maximum(values.std(axis=0), SMALLEST_DEVIATION) if self.standardised else values

    def matrices(self, chosen: np.ndarray | None = None) -> list[np.ndarray]:
        """Return for each layer the mean of the examples of each concept, (n, D) float64.

        Args:
            chosen: (N,) bool, examples to average; None takes all.

        Raises:
            ValueError: If a concept has none.
        """
        chosen = np.ones(len(self.concepts), dtype=bool) if chosen is None else chosen
        counts = np.bincount(self.concepts[chosen], minlength=len(self.names))
        if not counts.all():
            lacking = ", ".join(self.names[i] for i in np.flatnonzero(counts == 0)[:5])
            raise ValueError(
                f"No {self.modality} example of {lacking} could be read. Give more, or remove the concept."
            )
        sums = np.zeros((len(self.names), int(chosen.sum())))
        sums[self.concepts[chosen], np.arange(sums.shape[1])] = 1.0
        return [sums @ self.exemplars(i)[chosen] / counts[:, None] for i in range(len(self.layers))]

    def halves(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the concept matrices of every other example and of the rest; each concept needs two examples."""
        order = np.zeros(len(self.concepts), dtype=np.int64)
        for concept in range(len(self.names)):
            members = np.flatnonzero(self.concepts == concept)
            order[members] = np.arange(len(members))
        return self.matrices(order % 2 == 0), self.matrices(order % 2 == 1)


def examples_of(table: ConceptTable, modality: str) -> tuple[list[str], list[Example]]:
    """Return the names of the concepts that have a modality, and their examples."""
    concepts = table.with_modality(modality)
    examples = [Example(i, concept.word, value) for i, concept in enumerate(concepts)
                for value in concept.examples[modality]]  # fmt: skip
    return [concept.name for concept in concepts], examples


def read_example(modality: str, example: Example) -> dict[str, Any]:
    """Return a record as transforms take it.

    Raises:
        BadSample: If the file is damaged.
        OSError: If it cannot be read.
    """
    if modality == "text":
        return {"text": example.value, "id": 0}
    encoded = example.value.read_bytes()
    if modality == "vision":
        return {"image": decode_image(encoded), "id": 0}
    samples, _ = decode_audio(encoded)
    return {"audio": samples, "id": 0}


def encode_concepts(
    part: ModelPart,
    table: ConceptTable,
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    cache: Path | None = None,
) -> LayerFeatures:
    """Run an encoder over all examples of its modality.

    Args:
        part: The encoder.
        table: The concepts.
        batch_size: Examples of a forward pass.
        device: Where it runs.
        cache: Folder that keeps the features; None computes them again.

    Raises:
        ValueError: If no example of a concept could be read, or the encoder does not fit.
    """
    names, examples = examples_of(table, part.modality)
    path = None if cache is None else cache / f"{_key(part, names, examples)}.npz"
    if path is not None and path.exists():
        return _read_cached(path, part.modality, names)
    encoder, transform = open_encoder(part)
    encoder.to(device).eval()
    found: dict[int, list[np.ndarray]] = {}
    bad: list[str] = []
    collate = Collator(encoder.config, masks=False)
    layers: list[str] = []
    for window in _windows(part.modality, examples, transform, batch_size * BATCHES_AHEAD, bad):
        window.sort(key=lambda sample: sample["length"])
        for start in range(0, len(window), batch_size):
            batch = window[start : start + batch_size]
            vectors, layers = _forward(encoder, collate([sample["item"] for sample in batch]), batch, device)
            for sample, vector in zip(batch, vectors, strict=True):
                found[sample["index"]] = vector
    if bad:
        logger.warning("%s: left out %d unreadable examples: %s", part, len(bad), "; ".join(bad[:5]))
    if not found:
        raise ValueError(f"None of {len(examples)} examples could be read; {bad[0] if bad else 'there are none'}.")
    order = sorted(found)
    features = LayerFeatures(
        modality=part.modality,
        names=names,
        layers=layers,
        values=[np.stack([found[i][layer] for i in order]) for layer in range(len(layers))],
        concepts=np.array([examples[i].concept for i in order]),
        labels=[examples[i].label for i in order],
        bad=bad,
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
    )
    if path is not None:
        _write_cached(path, features)
    return features


def _windows(
    modality: str, examples: Sequence[Example], transform: Any, size: int, bad: list[str]
) -> Iterator[list[dict[str, Any]]]:
    """Yield `size` transformed examples at a time; unreadable ones are added to `bad`."""
    window: list[dict[str, Any]] = []
    for index, example in enumerate(examples):
        try:
            record = read_example(modality, example)
            spans = _word_tokens(transform, example) if modality == "text" else None
            item = transform(record, 0)
            if spans is not None and len(spans) != len(item["input_ids"]):
                raise ValueError("its tokens and their positions differ in number")
        except (BadSample, ValueError, OSError, RuntimeError) as error:
            bad.append(f"{example.label}: {error}")
            continue
        value = next(value for name, value in item.items() if modality_of_input(name) is not None)
        length = len(value) if value.ndim == 1 else 0
        window.append({"index": index, "item": item, "length": length, "word": spans})
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _word_tokens(transform: Any, example: Example) -> np.ndarray | None:
    """Return which tokens of a sentence are of its word, (T,) bool; None if the tokenizer does not tell.

    Raises:
        ValueError: If the sentence does not name the word, or not within the longest input.
    """
    if not getattr(transform.tokenizer, "is_fast", False):
        return None
    span = span_of(example.value, example.word)
    if span is None:
        raise ValueError(f"the sentence does not name {example.word!r}")
    encoded = transform.tokenizer(
        transform.head(example.value), truncation=True, max_length=transform.max_length, return_offsets_mapping=True
    )
    offsets = np.array(encoded["offset_mapping"]).reshape(-1, 2)
    # Special tokens have empty offsets.
    inside = (offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0]) & (offsets[:, 0] < offsets[:, 1])
    if not inside.any():
        raise ValueError(f"{example.word!r} lies behind the longest input of {transform.max_length} tokens")
    return inside


@torch.no_grad()
def _forward(
    encoder: torch.nn.Module, inputs: dict[str, Tensor], batch: Sequence[dict[str, Any]], device: torch.device | str
) -> tuple[list[list[np.ndarray]], list[str]]:
    """Return for each example its vectors of all layers, and the names of the layers."""
    modality = next(filter(None, map(modality_of_input, inputs)))
    extra = encoder.config.modality_config(modality).num_extra_tokens
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    output = encoder(**inputs, output_hidden_states=True)
    states = output.hidden_states
    real = getattr(output, "attention_mask", None)
    weights = states[0].new_ones(states[0].shape[:2]) if real is None else real.to(states[0].dtype).clone()
    weights[:, :extra] = 0.0
    kinds = {"": weights}
    if all(sample["word"] is not None for sample in batch):
        words = torch.zeros_like(weights)
        for row, sample in enumerate(batch):
            words[row, extra : extra + len(sample["word"])] = torch.from_numpy(sample["word"]).to(words)
        kinds = {"word ": words, "sentence ": weights}
    vectors, names = [], []
    for kind, share in kinds.items():
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1.0)
        for layer, hidden in enumerate(states):
            vectors.append(torch.einsum("bt,btd->bd", share.float(), hidden.float()).cpu().numpy())
            names.append(f"{kind}layer {layer}" if kind == "" else f"{kind}{layer}")
    return [[vector[row] for vector in vectors] for row in range(len(batch))], names


def _key(part: ModelPart, names: list[str], examples: Sequence[Example]) -> str:
    """Return a name that changes when the encoder or an example does."""
    content = [CACHE_FORMAT, part.stamp(), names, [example.stamp() for example in examples]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write_cached(path: Path, features: LayerFeatures) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"layers": features.layers, "labels": features.labels, "bad": features.bad}
    arrays = {f"layer_{i}": values for i, values in enumerate(features.values)}
    with write_file(path) as file:
        np.savez(file, about=json.dumps(about), concepts=features.concepts, parameters=features.parameters, **arrays)


def _read_cached(path: Path, modality: str, names: list[str]) -> LayerFeatures:
    with np.load(path) as arrays:
        about = json.loads(str(arrays["about"]))
        values = [arrays[f"layer_{i}"] for i in range(len(about["layers"]))]
        return LayerFeatures(modality, names, about["layers"], values, arrays["concepts"], about["labels"],
                             about["bad"], int(arrays["parameters"]))  # fmt: skip
