"""Frozen features of an encoder: one vector per sample, the mean over the real tokens of a block.

Samples are read in order, a few batches ahead, and sorted by length inside that window, which keeps padding low and
memory bounded. The result is in the order of the dataset, without unreadable samples, which are counted.

Legend: N samples, D width, B batch, E extra tokens, T tokens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from d2v_train.data.labels import whole_label
from d2v_train.inputs.collate import Collator
from modeling_d2v.modalities import modality_of_input


logger = logging.getLogger(__name__)

WINDOW_BATCHES = 16
"""Number of batches that are read ahead and sorted by length together."""
BAD_NAMES_SHOWN = 5


@dataclass
class FeatureSet:
    """Features of the readable samples of a dataset.

    Attributes:
        features: (N, D) float32.
        labels: (N,) int64; all -1 if labels were not required.
        groups: N names, for example of speakers; None for samples without one.
        indices: (N,) int64 indices in the dataset, ascending.
        bad: One line per sample that was left out: its index and what was wrong.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: list[str | None]
    indices: np.ndarray
    bad: list[str] = field(default_factory=list)


@torch.no_grad()
def extract(
    model,
    dataset,
    transform: Callable[..., dict[str, Tensor]],
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    layer: int | None = None,
    pooling: str = "mean",
    require_labels: bool = True,
) -> FeatureSet:
    """Run an encoder over a dataset and return one vector per sample.

    The model runs in evaluation mode and is returned to its former mode. On a GPU the forward pass runs under bfloat16
    autocast, on a CPU in the precision of the weights.

    Args:
        model: Data2VecModel, or the result of `observed_encoder` for another one.
        dataset: Records with "label", "group" and the raw input of one modality.
        transform: Evaluation transform, `transform(record, seed)` -> {"pixel_values" | "input_values" | "input_ids"}.
        batch_size: Samples per forward pass.
        device: Device to move the model to; None leaves it where it is.
        layer: None for the pooled output of the model; N >= 0 for `hidden_states[N]`, where 0 is the input of the
            shared blocks; negative counts from the end.
        pooling: "mean" over real tokens without the extra ones, or "first" for the first extra token.
        require_labels: Whether a record without a label is an error.

    Raises:
        MissingLabelsError: If labels are required and a record has none, or one that is not a whole number.
        ValueError: If no sample could be read, the layer does not exist, or `pooling` is "first" for a model without
            extra tokens.
    """
    if pooling not in ("mean", "first"):
        raise ValueError(f"Pooling {pooling!r} is unknown; use 'mean' or 'first'.")
    if device is not None:
        model.to(device)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    collate = Collator(model.config, masks=False)
    bad: list[str] = []
    rows: dict[int, tuple[np.ndarray, int, str | None]] = {}
    try:
        for window in _windows(dataset, transform, batch_size * WINDOW_BATCHES, bad, require_labels):
            window.sort(key=lambda sample: _length(sample["item"]))
            for start in range(0, len(window), batch_size):
                batch = window[start : start + batch_size]
                inputs = collate([sample["item"] for sample in batch])
                vectors = _forward(model, inputs, device, layer, pooling)
                for sample, vector in zip(batch, vectors, strict=True):
                    rows[sample["index"]] = (vector, sample["label"], sample["group"])
    finally:
        model.train(training)
    if bad:
        more = f" and {len(bad) - BAD_NAMES_SHOWN} more" if len(bad) > BAD_NAMES_SHOWN else ""
        logger.warning("Left out %d unreadable samples: %s%s", len(bad), "; ".join(bad[:BAD_NAMES_SHOWN]), more)
    if not rows:
        reason = bad[0] if bad else "the dataset is empty"
        raise ValueError(f"None of {len(dataset)} samples could be read; {reason}.")
    order = sorted(rows)
    return FeatureSet(
        features=np.stack([rows[i][0] for i in order]),
        labels=np.asarray([rows[i][1] for i in order], dtype=np.int64),
        groups=[rows[i][2] for i in order],
        indices=np.asarray(order, dtype=np.int64),
        bad=bad,
    )


def groups_are_disjoint(train: FeatureSet, test: FeatureSet) -> bool:
    """Return whether no test group (speaker) is in the training part; then regularisation is chosen by group."""
    return None not in train.groups and not set(train.groups) & set(test.groups)


def _windows(dataset, transform, size: int, bad: list[str], require_labels: bool) -> Iterator[list[dict]]:
    """Yield `size` transformed samples at a time; unreadable ones are added to `bad`."""
    window: list[dict] = []
    # Indexing a RawDataset substitutes the next good sample for a bad one, which would count twice here.
    read = getattr(dataset, "load", dataset.__getitem__)
    for index in range(len(dataset)):
        try:
            record = read(index)
            item = transform(record, 0)
        except (ValueError, OSError, RuntimeError) as error:
            bad.append(f"sample {index}: {error}")
            continue
        label = whole_label(record.get("label"), index) if require_labels else -1
        window.append({"index": index, "item": item, "label": label, "group": record.get("group")})
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _forward(model, inputs: dict[str, Tensor], device: torch.device, layer: int | None, pooling: str) -> np.ndarray:
    """Return the features of one batch, (B, D) float32."""
    extra = _num_extra_tokens(model, inputs)
    if pooling == "first" and extra == 0:
        raise ValueError(
            "Pooling 'first' needs an extra token, and this model has none for this modality; use pooling 'mean'."
        )
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    autocast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
    with autocast:
        output = model(**inputs, **({} if layer is None else {"output_hidden_states": True}))
    if layer is None and pooling == "mean":
        return output.pooler_output.float().cpu().numpy()
    states = output.last_hidden_state
    if layer is not None:
        count = len(output.hidden_states)
        if not -count <= layer < count:
            raise ValueError(f"Layer {layer} does not exist; this model has layers 0 to {count - 1}, or 'last'.")
        states = output.hidden_states[layer]
    states = states.float()
    if pooling == "first":
        return states[:, 0].cpu().numpy()
    real = getattr(output, "attention_mask", None)
    weights = torch.ones_like(states[..., 0]) if real is None else real.to(states.dtype).clone()
    weights[:, :extra] = 0.0
    pooled = (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    return pooled.cpu().numpy()


def _length(item: dict) -> int:
    value = next(value for name, value in item.items() if modality_of_input(name) is not None)
    # Texts, waveforms and series (length, C) have a length; images and other arrays all have one size.
    return len(value) if value.ndim <= 2 else 0


def _num_extra_tokens(model, inputs: dict[str, Tensor]) -> int:
    modality = next(filter(None, map(modality_of_input, inputs)))
    return model.config.modality_config(modality).num_extra_tokens
