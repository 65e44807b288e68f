"""Additions to the weights of a converted checkpoint: input preparation, card, summary, verification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from transformers import Wav2Vec2FeatureExtractor

from d2v_train.converting.dictionaries import bpe_tokenizer, letter_tokenizer
from d2v_train.inputs.processors import feature_extractor, image_processor
from d2v_train.support.atomic import write_folder
from modeling_d2v import Data2VecConfig, Data2VecImageProcessor, Data2VecProcessor
from modeling_d2v.conversion.fairseq.convert import WEIGHTS_NAME, Converted
from modeling_d2v.conversion.fairseq.sources import CTC, IMAGES, PRETRAINING, TEXTS
from modeling_d2v.conversion.tensors import Unused
from modeling_d2v.modalities import MODALITIES
from modeling_d2v.model_card import CARD, NON_COMMERCIAL, choose_license, model_card, read_license, without_processor
from modeling_d2v.presets import PRESETS


OF_VISION, PERMISSIVE = f"{NON_COMMERCIAL}-4.0", "mit"
IMAGENET = SimpleNamespace(value_range=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
INCEPTION = SimpleNamespace(value_range=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# For images that are not in colour, as fine-tuning assumes it.
OTHER_CHANNELS = SimpleNamespace(value_range=None, mean=0.5, std=0.5)
# Share of the resized picture's side that fine-tuned models were evaluated on.
CROP = 224 / 256


@dataclass
class Summary:
    """Printed summary of a conversion.

    Args:
        kind, task: Kind and task of the source.
        architecture: Class of the result.
        size: Nearest published size.
        parameters: Number of parameters of the result.
        license, license_note: Identifier of the licence, and its reason.
        unused: Tensors without a place.
        notes: Further lines.
    """

    kind: str
    task: str
    architecture: str
    size: str
    parameters: int
    license: str
    license_note: str
    unused: list[Unused]
    notes: list[str]

    def __str__(self) -> str:
        lines = [
            f"source      {self.kind}, {self.task}",
            f"result      {self.architecture}, {self.size}, {self.parameters:,} parameters",
            f"licence     {self.license}: {self.license_note}",
        ]
        if self.unused:
            lines.append(f"unused      {len(self.unused)} tensors of the source:")
            lines += [f"            {name}: {reason}" for name, reason in grouped(self.unused)]
        else:
            lines.append("unused      none: every tensor of the source has a place")
        return "\n".join(lines + [f"note        {note}" for note in self.notes])


def grouped(unused: list[Unused]) -> list[tuple[str, str]]:
    """Return unused tensors by reason, each with the first name and the number of the others."""
    names: dict[str, list[str]] = {}
    for name, reason in unused:
        names.setdefault(reason, []).append(name)
    return [
        (found[0] if len(found) == 1 else f"{found[0]} and {len(found) - 1} more", reason)
        for reason, found in names.items()
    ]


def nearest_size(config: Data2VecConfig) -> str:
    """Return the preset of the model's size, or name the nearest one."""

    def distance(preset: Mapping[str, Any]) -> tuple[float, ...]:
        modality = preset["modalities"][0]
        if [modality] != config.modalities or preset["masked_tokens"] != config.masked_tokens:
            return (float("inf"),)
        settings, theirs = config.modality_config(modality), preset[f"{modality}_config"]
        first = next(iter(MODALITIES[modality].front_ends))
        if theirs.get("front_end", first) != settings.front_end:
            return (float("inf"),)
        return (
            abs(preset["hidden_size"] - config.hidden_size),
            abs(preset["num_hidden_layers"] - config.num_hidden_layers),
            abs(theirs.get("prenet_depth", 0) - settings.prenet_depth),
            abs(theirs.get("patch_size", 0) - getattr(settings, "patch_size", 0)),
        )

    name, gap = min(((name, distance(preset)) for name, preset in PRESETS.items()), key=lambda entry: entry[1])
    if gap[0] == float("inf"):
        return "no published size"
    return name if not any(gap) else f"no published size (nearest {name})"


def converted_license(config: Data2VecConfig, chosen: str | None, source: str | None = None) -> tuple[str, str]:
    """Return the licence of converted weights, and the reason.

    Args:
        config: Configuration of the model.
        chosen: The user's choice.
        source: Folder or name on the Hub, whose card may name a licence.

    Raises:
        ValueError: The chosen licence allows commercial use, which the card of the source excludes.
    """
    stated = read_license(source)
    if chosen is not None:
        return choose_license(chosen, stated), "from --license"
    if stated and (stated.startswith(NON_COMMERCIAL) or "vision" not in config.modalities):
        return stated, "from the card of the source"
    if "vision" in config.modalities:
        return OF_VISION, (
            "the reference's image models of both versions exclude commercial use, and conversion does not change "
            "that; for your own weights set --license"
        )
    return PERMISSIVE, "that of fairseq and its speech and text models; for your own weights set --license"


def input_parts(
    converted: Converted, symbols: list[str] | None = None, bpe: tuple[str, str] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the input preparation of a converted model.

    Args:
        converted: The model.
        symbols: Symbols of the dictionary. Default: those in the checkpoint, if any.
        bpe: Files `encoder.json` and `vocab.bpe`.

    Returns:
        Parts of a `Data2VecProcessor` by name, and notes about missing ones.
    """
    source, config = converted.source, converted.config
    symbols = symbols or source.symbols
    parts: dict[str, Any] = {}
    notes: list[str] = []
    if "vision" in config.modalities:
        parts["image_processor"] = _pictures(converted)
        channels = config.vision_config.num_channels
        if channels != len(IMAGENET.mean):
            notes.append(
                f"images of {channels} channels: the checkpoint does not hold how they were normalised; mean and "
                "standard deviation 0.5 are assumed, correct them in preprocessor_config.json"
            )
    if "audio" in config.modalities:
        parts["feature_extractor"] = _waveforms(converted)
    if source.task == CTC:
        rows = config.audio_config.vocab_size
        if symbols:
            parts["tokenizer"] = letter_tokenizer(symbols, rows)
        else:
            notes.append(f"no tokenizer: give the letter dictionary of its {rows} tokens (--dict dict.ltr.txt)")
    if "text" in config.modalities:
        text = config.text_config
        if symbols and bpe:
            parts["tokenizer"] = bpe_tokenizer(symbols, *bpe, text.vocab_size, text.max_position_embeddings)
        else:
            notes.append("no tokenizer: give its files (--dict dict.txt --bpe encoder.json vocab.bpe)")
    return parts, notes


def _waveforms(converted: Converted) -> Wav2Vec2FeatureExtractor:
    source = converted.source
    extractor = feature_extractor(converted.config)
    extractor.do_normalize = bool(source.tuning.get("normalize", source.data.get("normalize", True)))
    return extractor


def _pictures(converted: Converted) -> Data2VecImageProcessor:
    source, size = converted.source, converted.config.vision_config.image_size
    colours = IMAGENET
    if source.kind == "beit-v1-vision" and source.data.get("imagenet_default_mean_and_std") is False:
        colours = INCEPTION
    if converted.config.vision_config.num_channels != len(IMAGENET.mean):
        colours = OTHER_CHANNELS
    processor = image_processor(converted.config, colours)
    if source.task == IMAGES:
        crop = source.data.get("crop_pct") or CROP
        processor.size = {"shortest_edge": int(size / crop)}
    return processor


def summarise(converted: Converted, license: str | None, notes: list[str]) -> Summary:
    """Return the summary of a converted checkpoint of fairseq or BEiT."""
    identifier, reason = converted_license(converted.config, license)
    # Most of the settings left out concern training; only unknown ones are worth showing.
    told = [note for note in converted.notes if not note.startswith("model.") or "unknown here" in note]
    return Summary(
        converted.source.kind,
        converted.source.task,
        converted.model_class.__name__,
        nearest_size(converted.config),
        sum(converted.tensors.meta(name).numel() for name in converted.tensors),
        identifier,
        reason,
        converted.unused,
        told + notes,
    )


def card_of(summary: Summary, config: Data2VecConfig, source: str, name: str, dtype: str) -> str:
    """Return the text of the model card."""
    published = not Path(source).exists()  # a name on the Hub
    shown = source if published else Path(source).name
    if summary.task in (PRETRAINING, CTC, IMAGES, TEXTS):
        origin = f"Converted from `{shown}`, a checkpoint of the reference implementation ({summary.kind})."
        if summary.task != PRETRAINING:
            origin += f" It was fine-tuned for {summary.task}."
    else:
        origin = f"Converted from `{shown}`, a model of {summary.kind}."
    return model_card(
        config,
        summary.architecture,
        name,
        license=summary.license,
        base_model=source if published else None,
        sections={
            "Origin": f"{origin} Size: {summary.size}. Numbers are stored as {dtype}.",
            "Tensors without a place": "\n".join(f"- `{n}`: {why}" for n, why in grouped(summary.unused)) or "None.",
        },
    )


def write_converted(
    folder: Path, write: Callable[[Path], None], parts: dict[str, Any], card: str, check: Callable[[Path], None] | None
) -> None:
    """Write a converted model atomically.

    Args:
        folder: Destination, replaced if it exists.
        write: Writes weights, configuration and code.
        parts: Parts of the processor, by name.
        card: Text of the model card.
        check: Checks the written folder, and raises if it is wrong.
    """
    with write_folder(folder) as draft:
        write(draft)
        if parts:
            Data2VecProcessor(**parts).save_pretrained(draft)
        else:
            card = without_processor(card)
        (draft / CARD).write_text(card, encoding="utf-8")
        if check is not None:
            check(draft)


def verify(folder: Path, converted: Converted, dtype: torch.dtype | None) -> int:
    """Read the result back and compare every tensor with the source, and with what the model class loads.

    Returns:
        The number of compared tensors.

    Raises:
        ValueError: Tensors differ; the message names them.
    """
    wrong = []
    with safe_open(folder / WEIGHTS_NAME, framework="pt") as file:
        missing = set(converted.tensors) ^ set(file.keys())
        for name, tensor in converted.read(dtype):
            if name not in missing and not _same(file.get_tensor(name), tensor):
                wrong.append(name)
    model, info = converted.model_class.from_pretrained(folder, output_loading_info=True)
    wrong += sorted({*missing, *info["missing_keys"], *info["unexpected_keys"]})
    wrong += [
        name
        for name, tensor in model.state_dict().items()
        if name in converted.tensors and not _same(tensor, converted.tensors[name].to(tensor.dtype))
    ]
    if wrong:
        raise ValueError(f"The written model differs from the source in {', '.join(list(dict.fromkeys(wrong))[:10])}.")
    return len(converted.tensors)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
