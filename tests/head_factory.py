"""One table of the task heads: tiny configuration, inputs and labels of each, for what is tested of all of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from model_factory import inputs_for, padded_inputs, randomise, tiny_config

import modeling_d2v
from modeling_d2v import Data2VecConfig
from modeling_d2v.heads import Data2VecHead


LABELS = 3
Batch = dict[str, torch.Tensor]

# What the heads add to a tiny configuration. Nothing is drawn at random in training.
PARTS: dict[str, dict[str, Any]] = {
    "text": {},
    "vision": {"auxiliary_channels": 8, "init_extra_token_zero": False},
    "audio": {
        "apply_spec_augment": False,
        "vocab_size": 12,
        "classifier_proj_size": 16,
        "tdnn_dim": [16, 16],
        "tdnn_kernel": [3, 2],
        "tdnn_dilation": [1, 2],
        "xvector_output_dim": 8,
    },
}


def _class_ids(batch: int, length: int) -> Batch:
    return {"labels": torch.tensor([0, 2, 1])[:batch]}


def _ids_of_tokens(batch: int, length: int) -> Batch:
    ids = torch.arange(batch * length).view(batch, length) % LABELS
    return {"labels": ids.masked_fill(torch.arange(length) >= 4, -100)}


def _answers(batch: int, length: int) -> Batch:
    return {"start_positions": torch.tensor([1, 0, 2])[:batch], "end_positions": torch.tensor([3, 1, 2])[:batch]}


def _choices(batch: int, length: int) -> Batch:
    return {"labels": torch.tensor([0, 1, 1])[:batch]}


def _transcripts(batch: int, length: int) -> Batch:
    return {"labels": torch.tensor([[3, 4, 4, 5], [6, 7, -100, -100], [1, -100, -100, -100]])[:batch]}


def _maps(batch: int, length: int) -> Batch:
    quarters = torch.arange(4).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)
    return {"labels": torch.stack([(quarters + i) % LABELS for i in range(batch)])}


def _nothing(batch: int, length: int) -> Batch:
    return {}


class Head(NamedTuple):
    """One head.

    Args:
        modality: its name.
        auto: the Auto class that makes it.
        labels: (samples, tokens or frames) -> keyword arguments of the loss.
        per_token: outputs with one entry a token or frame, second dimension.
        settings: fields of the modality beyond `PARTS`.
        cancels: parameters without a gradient: what is added to all scores of a softmax, or before a batch norm.
    """

    modality: str
    auto: str
    labels: Callable[[int, int], Batch]
    per_token: bool = False
    settings: dict[str, Any] = {}
    cancels: tuple[str, ...] = ()


HEADS = {
    "Data2VecForMaskedLM": Head("text", "AutoModelForMaskedLM", _ids_of_tokens, True),
    "Data2VecForSequenceClassification": Head("text", "AutoModelForSequenceClassification", _class_ids),
    "Data2VecForTokenClassification": Head("text", "AutoModelForTokenClassification", _ids_of_tokens, True),
    "Data2VecForQuestionAnswering": Head(
        "text",
        "AutoModelForQuestionAnswering",
        _answers,
        True,
        cancels=("qa_outputs.bias", "data2vec.encoder.blocks.1.norm2.bias"),
    ),
    "Data2VecForMultipleChoice": Head("text", "AutoModelForMultipleChoice", _choices, cancels=("classifier.bias",)),
    "Data2VecForCTC": Head("audio", "AutoModelForCTC", _transcripts, True),
    "Data2VecForAudioClassification": Head(
        "audio", "AutoModelForAudioClassification", _class_ids, settings={"use_weighted_layer_sum": True}
    ),
    "Data2VecForAudioFrameClassification": Head("audio", "AutoModelForAudioFrameClassification", _ids_of_tokens, True),
    "Data2VecForXVector": Head("audio", "AutoModelForAudioXVector", _class_ids),
    "Data2VecForImageClassification": Head("vision", "AutoModelForImageClassification", _class_ids),
    "Data2VecForSemanticSegmentation": Head(
        "vision", "AutoModelForSemanticSegmentation", _maps, cancels=("pyramid.levels.0.0.bias",)
    ),
    "Data2VecBackbone": Head("vision", "AutoBackbone", _nothing),
}


def head_config(name: str, modalities: str | tuple[str, ...] | None = None, **overrides: Any) -> Data2VecConfig:
    """Tiny configuration for a head; `modalities` may name more than its own."""
    head = HEADS[name]
    names = (head.modality,) if modalities is None else (modalities,) if isinstance(modalities, str) else modalities
    for each in names:
        part = f"{each}_config"
        own = head.settings if each == head.modality else {}
        overrides[part] = {**PARTS[each], **own, **overrides.get(part, {})}
    return tiny_config(names, **{"num_labels": LABELS, **overrides})


def head_class(name: str) -> type[Data2VecHead]:
    return getattr(modeling_d2v, name)


def make_head(name: str, **overrides: Any) -> Data2VecHead:
    """The head with weights away from their start values, the same ones at every call, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(head_class(name)(head_config(name, **overrides))).eval()


def _with_choices(name: str, batch: Batch) -> Batch:
    """Two choices a sample, the second with other words."""
    if name != "Data2VecForMultipleChoice":
        return batch
    ids = batch["input_ids"]
    other = torch.where(ids == 1, ids, 52 - ids)
    stacked = {"input_ids": torch.stack([ids, other], dim=1)}
    if "attention_mask" in batch:
        stacked["attention_mask"] = torch.stack([batch["attention_mask"]] * 2, dim=1)
    return stacked


def head_inputs(name: str, batch: int = 3) -> Batch:
    """Unpadded input of `batch` samples."""
    return _with_choices(name, inputs_for(HEADS[name].modality, batch))


def head_labels(name: str, batch: int = 3) -> Batch:
    """Labels for `head_inputs`, which fit the padded input as well."""
    modality = HEADS[name].modality
    length = {"text": 20, "audio": 18, "vision": 16}[modality]
    return HEADS[name].labels(batch, length)


def padded_head_inputs(name: str, side: str = "right") -> tuple[Batch, list[Batch]]:
    """A padded batch of three samples, and the samples alone. Images, which have no padding, are just a batch.

    On the left, sound is moved by whole frames, so that these stay the same; the rest of the padding is on the right.
    """
    modality = HEADS[name].modality
    if modality == "vision":
        images = inputs_for("vision", 3)["pixel_values"]
        return {"pixel_values": images}, [{"pixel_values": image[None]} for image in images]
    batch, singles = padded_inputs(modality)
    if side == "left":
        lengths, step = batch["attention_mask"].sum(dim=1).tolist(), {"text": 1, "audio": 320}[modality]
        shifts = [(max(lengths) - length) // step * step for length in lengths]
        batch = {
            key: torch.stack([row.roll(shift) for row, shift in zip(x, shifts, strict=True)])
            for key, x in batch.items()
        }
    return _with_choices(name, batch), [_with_choices(name, single) for single in singles]


def results(output: Any) -> Batch:
    """What a head computes for its task, by name, apart from the loss."""
    found = {}
    for key in ("logits", "start_logits", "end_logits", "embeddings"):
        if key in output:
            found[key] = output[key]
    for i, level in enumerate(output.feature_maps if "feature_maps" in output else ()):
        found[f"feature_maps.{i}"] = level
    assert found
    return found


def objective(output: Any) -> torch.Tensor:
    """The loss; of a head without one, a number that depends on all that it gives."""
    loss = output["loss"] if "loss" in output else None
    return sum(x.square().mean() for x in results(output).values()) if loss is None else loss
