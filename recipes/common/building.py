"""From options to the parts of a run: configuration, tokenizer, model, data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, set_seed

from modeling_d2v import Data2VecConfig, Data2VecForPreTraining
from recipes.common.batches import BatchPlan, StepDataset
from recipes.common.collate import Collator
from recipes.common.datasets import open_dataset
from recipes.common.options import OptionError, Options
from recipes.common.tokenizer import build_tokenizer, load_tokenizer
from recipes.common.transforms import build_transform


def open_sources(options: Options, channels: int | None = None) -> dict[str, Any]:
    """Raw data sets of the run by modality.

    Args:
        options: the run's options.
        channels: channels of the images; None keeps `open_dataset`'s default.
    """
    sources = {}
    for name in options.modalities:
        section = getattr(options, name)
        extra = dict(section.dataset)
        if name == "vision" and channels is not None:
            extra.setdefault("channels", channels)
        try:
            sources[name] = open_dataset(name, getattr(options.data, name), section.split, **extra)
        except TypeError as error:
            raise OptionError(f"{name}.dataset holds an argument that open_dataset does not take: {error}.") from error
    return sources


def build_config(options: Options, vocab_size: int | None = None) -> Data2VecConfig:
    """Configuration of the model: preset or `init_from`, then the fields of the `model` section.

    Args:
        options: the run's options.
        vocab_size: entries of the tokenizer, which decide the size of the text embedding.
    """
    fields = {key: dict(value) if isinstance(value, dict) else value for key, value in options.model.items()}
    preset = fields.pop("preset", None)
    if options.init_from is not None and preset is not None:
        raise OptionError(f"init_from already decides the model, and model.preset={preset} contradicts it. Drop one.")
    fields.setdefault("modalities", options.modalities)
    if vocab_size is not None:
        fields["text_config"] = {**(fields.get("text_config") or {}), "vocab_size": vocab_size}
        # The last entry is the mask token; an id of the preset's larger vocabulary would lie outside.
        fields["text_config"].setdefault("mask_token_id", vocab_size - 1)
    if options.init_from is not None:
        start = AutoConfig.from_pretrained(options.init_from).to_dict()
        fields["modalities"] = sorted({*start["modalities"], *fields["modalities"]})
        fields = _merge(start, fields)
        config = Data2VecConfig(**{key: value for key, value in fields.items() if key != "model_type"})
    else:
        config = Data2VecConfig.preset(preset, **fields) if preset else Data2VecConfig(**fields)
    missing = [name for name in options.modalities if name not in config.modalities]
    if missing:
        raise OptionError(f"The run has a section for {', '.join(missing)}, but model.modalities is "
                          f"{config.modalities}. Add it there, or set {missing[0]}=null.")  # fmt: skip
    return config


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and merged.get(key) else value
    return merged


def prepare_tokenizer(options: Options, documents: Any, folder: Path) -> Any:
    """Tokenizer of the run, kept in its folder so that a resumed run reads the same one.

    Call it in the main process first: a new tokenizer is trained once.

    Args:
        options: the run's options.
        documents: raw text data set that a new tokenizer is trained on.
        folder: where the tokenizer is kept.
    """
    if folder.exists():
        return load_tokenizer(str(folder))
    if options.text.tokenizer is not None:
        tokenizer = load_tokenizer(options.text.tokenizer)
    elif options.init_from is not None and "text" in AutoConfig.from_pretrained(options.init_from).modalities:
        tokenizer = load_tokenizer(options.init_from)
    else:
        size = (options.model.get("text_config") or {}).get("vocab_size", 8192)
        first = islice((documents[index] for index in range(len(documents))), options.text.tokenizer_documents)
        tokenizer = build_tokenizer((record["text"] for record in first), size)
    draft = folder.with_name(folder.name + ".draft")
    tokenizer.save_pretrained(draft)
    draft.rename(folder)
    return tokenizer


def build_model(options: Options, config: Data2VecConfig) -> Data2VecForPreTraining:
    """Model with the weights of `init_from`, or new ones that follow from the seed alone."""
    set_seed(options.seed)
    if options.init_from is not None:
        model = Data2VecForPreTraining.from_pretrained(options.init_from, config=config)
        # The decay of the teacher follows the steps of this run, not those of the one before.
        model.ema_step.zero_()
    else:
        model = Data2VecForPreTraining(config)
    model = model.to(torch.float32)
    if options.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


class TokenCounter:
    """Counts the real tokens of a batch, so that padding does not pass for throughput."""

    def __init__(self, config: Data2VecConfig):
        self.config = config

    def __call__(self, modality: str, inputs: dict[str, Tensor]) -> int:
        real = inputs.get("attention_mask")
        if real is None:
            return inputs["mask"][:, 0].numel()
        lengths = real.sum(dim=1)
        return int((self.config.audio_config.num_frames(lengths) if modality == "audio" else lengths).sum())


def build_steps(
    options: Options,
    config: Data2VecConfig,
    sources: Mapping[str, Any],
    tokenizer: Any = None,
    rank: int = 0,
    world_size: int = 1,
) -> StepDataset:
    """Micro-batches of this process by step."""
    datasets, transforms = {}, {}
    for name, source in sources.items():
        section = getattr(options, name)
        transforms[name] = build_transform(name, section.transform, config, tokenizer, train=True)
        datasets[name] = transforms[name].prepare(source)
    plan = BatchPlan(
        {name: len(dataset) for name, dataset in datasets.items()},
        {name: getattr(options, name).batch_size for name in datasets},
        {name: getattr(options, name).ratio for name in datasets},
        options.seed,
        mixed=options.schedule == "mixed",
    )
    return StepDataset(
        plan,
        datasets,
        transforms,
        Collator(config, options.seed),
        TokenCounter(config),
        seed=options.seed,
        accumulate=options.accumulate,
        rank=rank,
        world_size=world_size,
    )
